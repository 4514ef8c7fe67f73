// The right-hand matrix of a product, its elements stored in fewer bits than a float.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace pyconv {

// How the elements of a matrix are stored.
//
//   bfloat16  the upper half of a float, rounded to nearest, ties to even: a relative error of 2^-9 at most
//   int8      a whole number from -128 to 127 times a scale for each column
enum class Storage { kBfloat16, kInt8 };

// The matrix that a storage leaves of another one; whoever multiplies by it needs nothing else.
//
// A (k, n) matrix is cut into panels of up to 64 columns, each of strips as kernels::NarrowProduct has them.
// At batch 1 a dense layer is bound by reading its weights once: this is half or a quarter of what
// PackedMatrix reads.
class NarrowMatrix {
 public:
  // values[row * n + column] is the matrix, `bias` its n biases. `scales` holds n factors for int8, or
  // nothing, in which case each column's largest element becomes 127 of its scale. With `integers` the left
  // matrix comes in int16, as whole numbers of a scale x_scale.
  NarrowMatrix(const float* values, std::int64_t k, std::int64_t n, const std::vector<float>& bias,
               Storage storage, const std::vector<float>& scales, bool integers, float x_scale,
               const kernels::KernelTable& kernels);

  std::int64_t panels() const { return static_cast<std::int64_t>(panels_.size()); }
  std::int64_t first_column(std::int64_t panel) const { return at(panel).first; }
  std::int64_t columns(std::int64_t panel) const { return at(panel).columns; }

  // Runs the kernel on one panel, whose part of the product it fills in. x, its pitch, the rows, the bounds
  // and out (where the panel's first column goes) are the caller's.
  void multiply(kernels::NarrowProduct& product, std::int64_t panel) const;

 private:
  struct Panel {
    std::int64_t first;
    std::int64_t columns;
    std::size_t values;  // offset into values_, in bytes
  };
  const Panel& at(std::int64_t panel) const { return panels_[static_cast<std::size_t>(panel)]; }
  char* bytes() { return reinterpret_cast<char*>(values_.data()); }
  const char* bytes() const { return reinterpret_cast<const char*>(values_.data()); }

  std::int64_t depth_;
  std::int64_t strip_bytes_;
  const kernels::NarrowKernel* kernel_;
  std::vector<Panel> panels_;
  AlignedBuffer values_;
  AlignedBuffer scales_;  // by column, filled up to whole strips
  AlignedBuffer biases_;
};

// The largest element of each of n columns, divided by 127; 1 for a column of zeros.
std::vector<float> int8_scales(const float* values, std::int64_t k, std::int64_t n);

}  // namespace pyconv
