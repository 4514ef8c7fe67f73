#include "base/tensor.h"

#include <algorithm>
#include <new>

#include "base/errors.h"

namespace pyconv {

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  if (sizes.size() > static_cast<std::size_t>(kMaxRank)) {
    throw ArgumentError("a tensor has " + std::to_string(sizes.size()) + " axes; expected at most " +
                        std::to_string(kMaxRank));
  }
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
}

Shape Shape::with_batch(std::int64_t batch) const {
  Shape result = *this;
  if (has_batch()) result.sizes_[0] = batch;
  return result;
}

std::int64_t Shape::count(int first, int last) const {
  std::int64_t product = 1;
  bool overflows = false;
  for (int axis = first; axis < last; ++axis) {
    overflows |= __builtin_mul_overflow(product, (*this)[axis], &product);
  }
  if (overflows) throw ArgumentError("the shape " + to_string(*this) + " has more elements than any memory");
  return product;
}

AlignedBuffer::AlignedBuffer(std::size_t count)
    : data_(static_cast<float*>(
          ::operator new[](std::max<std::size_t>(count, 1) * sizeof(float), std::align_val_t(kAlignment)))),
      size_(count) {}

void AlignedBuffer::Free::operator()(float* data) const {
  ::operator delete[](data, std::align_val_t(kAlignment));
}

}  // namespace pyconv
