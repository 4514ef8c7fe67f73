#include "ops/broadcast.h"

#include "base/errors.h"

namespace pyconv {

Shape broadcast(const std::string& operation, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result = a.rank() >= b.rank() ? a : b;
  for (int back = 1; back <= std::min(a.rank(), b.rank()); ++back) {
    const std::int64_t p = a[a.rank() - back];
    const std::int64_t q = b[b.rank() - back];
    if (p != q && p != 1 && q != 1) {
      throw ArgumentError(operation, "b", "a shape that broadcasts with " + to_string(a), to_string(b));
    }
    result[rank - back] = p == 1 ? q : p;
  }
  for (int axis = 1; axis < rank; ++axis) {
    if (result[axis] == kBatch) {
      throw ArgumentError(operation, "b", "the batch in axis 0 of both operands",
                          to_string(a) + " and " + to_string(b));
    }
  }
  return result;
}

}  // namespace pyconv
