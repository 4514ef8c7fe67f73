#include "base/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
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
  constexpr std::int64_t kLargest = sizeof(double);  // of any element
  std::int64_t bytes = kLargest;
  bool empty = false;
  bool overflows = false;
  for (int axis = first; axis < last; ++axis) {
    const std::int64_t size = (*this)[axis];
    empty |= size == 0;
    // As NumPy does: not even the strides of an empty array may overflow.
    overflows |= __builtin_mul_overflow(bytes, size == 0 ? 1 : size, &bytes);
  }
  if (overflows) throw ArgumentError("the shape " + to_string(*this) + " has more elements than any memory");
  return empty ? 0 : bytes / kLargest;
}

namespace {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::size_t bytes)
      : message_("there is no memory for an array of " + std::to_string(bytes) + " bytes") {}

  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// Weights of megabytes are read in one go at every call: on pages of 2 MB the core needs no new address every
// 4 kB.
constexpr std::size_t kHugePage = std::size_t{2} << 20;

float* allocate(std::size_t count) {
  const std::size_t wanted = std::max<std::size_t>(count, 1) * sizeof(float);
  const std::size_t alignment = wanted >= 2 * kHugePage ? kHugePage : kAlignment;
  const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
  void* const memory = bytes >= wanted ? std::aligned_alloc(alignment, bytes) : nullptr;
  if (memory == nullptr) throw OutOfMemory(wanted);
#if defined(MADV_HUGEPAGE)
  // A wish: where the system does not grant it, nothing is lost.
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return static_cast<float*>(memory);
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t count) : data_(allocate(count)), size_(count) {}

void AlignedBuffer::Free::operator()(float* data) const { std::free(data); }

}  // namespace pyconv
