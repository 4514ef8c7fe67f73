// Operands of several shapes, element by element, with NumPy's broadcasting.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "ops/operator.h"

namespace pyconv {

// The shape of a's and b's broadcast. The batch goes with itself and with 1. Throws ArgumentError where they
// do not broadcast.
Shape broadcast(const std::string& operation, const Shape& a, const Shape& b);

// The output's axes with the strides of its N operands, neighbours merged where all operands allow it. The
// last axis is the inner loop: its strides are 0 or 1. All shapes are concrete.
template <std::size_t N>
class BroadcastLoops {
 public:
  BroadcastLoops(const std::array<Shape, N>& operands, const Shape& out) {
    std::int64_t strides[N][Shape::kMaxRank] = {};
    for (std::size_t i = 0; i < N; ++i) {
      const Shape& shape = operands[i];
      std::int64_t stride = 1;
      for (int axis = shape.rank() - 1; axis >= 0; --axis) {
        strides[i][axis + out.rank() - shape.rank()] = shape[axis] == 1 ? 0 : stride;
        stride *= shape[axis];
      }
    }
    for (int axis = 0; axis < out.rank(); ++axis) {
      if (out[axis] == 1) continue;
      const std::int64_t size = out[axis];
      bool merges = rank_ > 0;
      for (std::size_t i = 0; i < N && merges; ++i) {
        merges = strides_[i][rank_ - 1] == strides[i][axis] * size;
      }
      if (merges) {
        sizes_[rank_ - 1] *= size;
      } else {
        sizes_[rank_++] = size;
      }
      for (std::size_t i = 0; i < N; ++i) strides_[i][rank_ - 1] = strides[i][axis];
    }
    if (rank_ == 0) {
      sizes_[0] = 1;
      for (std::size_t i = 0; i < N; ++i) strides_[i][0] = 0;
      rank_ = 1;
    }
  }

  // Outer rows, or blocks where there is but one long row.
  std::int64_t units() const {
    if (rank_ == 1) return (sizes_[0] + kBlock - 1) / kBlock;
    std::int64_t product = 1;
    for (int axis = 0; axis + 1 < rank_; ++axis) product *= sizes_[axis];
    return product;
  }

  // From an element of operand i to the next in the inner loop: 0 or 1.
  std::int64_t step(std::size_t i) const { return strides_[i][rank_ - 1]; }

  // Calls f(begin, count, offsets) for runs of outputs: `count` of them from `begin` on, whose operands begin
  // at offsets[i] and go on in steps of step(i).
  template <class F>
  void run(UnitRange range, F&& f) const {
    std::array<std::int64_t, N> offsets{};
    const int last = rank_ - 1;
    if (last == 0) {
      const std::int64_t begin = range.begin * kBlock;
      for (std::size_t i = 0; i < N; ++i) offsets[i] = begin * step(i);
      f(begin, std::min(range.end * kBlock, sizes_[0]) - begin, offsets);
      return;
    }
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      offsets.fill(0);
      std::int64_t rest = unit;
      for (int axis = last - 1; axis >= 0; --axis) {
        const std::int64_t index = rest % sizes_[axis];
        rest /= sizes_[axis];
        for (std::size_t i = 0; i < N; ++i) offsets[i] += index * strides_[i][axis];
      }
      f(unit * sizes_[last], sizes_[last], offsets);
    }
  }

 private:
  static constexpr std::int64_t kBlock = 4096;
  int rank_ = 0;
  std::int64_t sizes_[Shape::kMaxRank + 1];
  std::int64_t strides_[N][Shape::kMaxRank + 1];
};

}  // namespace pyconv
