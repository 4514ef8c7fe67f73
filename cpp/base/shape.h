// Shapes of tensors, without allocation.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>

namespace pyconv {

// In axis 0 of a shape inside a program: the batch, known only when the program runs.
inline constexpr std::int64_t kBatch = -1;

// The sizes of a tensor's axes, at most kMaxRank of them.
class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  // Throws ArgumentError above kMaxRank axes.
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  std::int64_t& operator[](int axis) { return sizes_[static_cast<std::size_t>(axis)]; }
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(axis)]; }
  std::span<const std::int64_t> sizes() const { return {sizes_.data(), static_cast<std::size_t>(rank_)}; }
  bool operator==(const Shape& other) const = default;

  bool has_batch() const { return rank_ > 0 && sizes_[0] == kBatch; }
  // The same shape with `batch` in the place of kBatch.
  Shape with_batch(std::int64_t batch) const;
  // The number of elements in the axes from `first` up to, but not including, `last`; throws ArgumentError
  // where 64 bits do not hold it.
  std::int64_t count(int first, int last) const;
  std::int64_t count() const { return count(0, rank_); }
  // The number of elements for one image where axis 0 is the batch, of all elements elsewhere.
  std::int64_t count_per_image() const { return count(has_batch() ? 1 : 0, rank_); }

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};  // zero beyond rank_, so that == compares well
  int rank_ = 0;
};

}  // namespace pyconv
