// Memory for large results, used again and again.
#pragma once

#include <cstddef>
#include <deque>

#include "base/tensor.h"

namespace pyconv {

// Keeps buffers that were given back for those who next want one of about their size. The system's own
// allocator hands memory of megabytes back to the kernel at once, which then has to clear every page of
// the next: as much work as computing the result. Safe to use from many threads.
class Recycler {
 public:
  // What is kept in all; the buffer that was given back longest ago goes first.
  static constexpr std::size_t kMostBytes = std::size_t{64} << 20;

  // At least `count` floats, of any content.
  AlignedBuffer take(std::size_t count);
  // Frees the buffer where it cannot be kept.
  void give_back(AlignedBuffer buffer) noexcept;

 private:
  std::deque<AlignedBuffer> kept_;
  std::size_t bytes_ = 0;
};

}  // namespace pyconv
