// Views of float32 tensors, row-major and contiguous, and the memory behind them.
#pragma once

#include <cstddef>
#include <memory>

#include "base/shape.h"

namespace pyconv {

// A float32 tensor that somebody else owns: a pointer to its first element and its shape, row-major,
// contiguous. `data` needs no alignment beyond a float's.
struct ConstTensor {
  const float* data = nullptr;
  Shape shape;
};

struct Tensor {
  float* data = nullptr;
  Shape shape;
  operator ConstTensor() const { return {data, shape}; }
};

// A cache line, and the widest vector.
inline constexpr std::size_t kAlignment = 64;

// Uninitialised floats, aligned to kAlignment.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t count);

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* data) const;
  };
  std::unique_ptr<float[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace pyconv
