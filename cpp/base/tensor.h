// Views of tensors, row-major and contiguous, and the memory behind them.
#pragma once

#include <cstddef>
#include <memory>

#include "base/dtype.h"
#include "base/shape.h"

namespace pyconv {

// What a tensor is, without its elements.
struct TensorType {
  Shape shape;
  DType dtype = DType::kFloat32;
};

// A tensor that somebody else owns: a pointer to its first element and its type, row-major, contiguous.
// `data` needs no alignment beyond an element's. Nearly all tensors are of float32, so that is what `data`
// points to; elements of another type are read through `as`.
struct ConstTensor {
  const float* data = nullptr;
  Shape shape;
  DType dtype = DType::kFloat32;

  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
};

struct Tensor {
  float* data = nullptr;
  Shape shape;
  DType dtype = DType::kFloat32;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  operator ConstTensor() const { return {data, shape, dtype}; }
};

// A cache line, and the widest vector.
inline constexpr std::size_t kAlignment = 64;

// How many floats take up the memory of so many elements.
inline std::int64_t floats_of(std::int64_t elements, DType dtype) {
  const auto bytes = static_cast<std::int64_t>(size_of(dtype)) * elements;
  return (bytes + static_cast<std::int64_t>(sizeof(float)) - 1) / static_cast<std::int64_t>(sizeof(float));
}

// Uninitialised memory, counted in floats, aligned to kAlignment.
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
