#include <algorithm>

#include "ops/conv2d/algorithm.h"
#include "ops/conv2d/winograd_filters.h"

namespace pyconv {

namespace {

// For first layers: a window of few floats (one channel, or colours), whose weights all stay in registers
// while they slide along a row. Two-by-two pooling happens in registers too.
class StencilConv2d final : public RowwiseConv2d {
 public:
  StencilConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels, bool exact)
      : RowwiseConv2d(attributes, x, kernels),
        padded_(window_.height.pad_begin > 0 || window_.height.pad_end > 0 || window_.width.pad_begin > 0 ||
                window_.width.pad_end > 0),
        row_floats_((width_ + window_.width.pad_begin + window_.width.pad_end) * in_) {
    const kernels::StencilKernels& found =
        *kernels::find_stencil(kernels, window_.height.kernel, window_.width.kernel * in_);
    plain_ = found.plain;
    // A maximum may be taken before the activation only where that never falls.
    const bool two_by_two = pool_ && pool_->size == std::array<std::int64_t, 2>{2, 2} &&
                            pool_->strides == std::array<std::int64_t, 2>{2, 2};
    if (two_by_two && activation_.is_clamp()) pooled_ = found.pooled;
    const bool unit_strides = window_.height.stride == 1 && window_.width.stride == 1;
    if (pooled_ != nullptr && !exact && unit_strides && window_.height.kernel == 3 &&
        window_.width.kernel == 3 && in_ == 1) {
      pooled_ = kernels.winograd_stencil_pooled;
      kernel_.values = transform_filters(kernels.winograd[0], kernel_);
      winograd_ = true;
    }

    // weights_[vector][float of the window, or plane of the transformed filter][lane]
    const std::int64_t lanes = kernels.lanes;
    const auto floats = static_cast<std::int64_t>(kernel_.values.size()) / out_;
    const std::int64_t vectors = (out_ + lanes - 1) / lanes;
    weights_ = AlignedBuffer(static_cast<std::size_t>(vectors * floats * lanes));
    std::fill_n(weights_.data(), weights_.size(), 0.0F);
    for (std::int64_t k = 0; k < floats; ++k) {
      for (std::int64_t o = 0; o < out_; ++o) {
        weights_.data()[(o / lanes * floats + k) * lanes + o % lanes] =
            kernel_.values[static_cast<std::size_t>(k * out_ + o)];
      }
    }
    bias_.resize(static_cast<std::size_t>(vectors * lanes), 0.0F);
    kernel_.values = {};
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               float* workspace) const override {
    slide(plain_, x, begin, end - begin, end - begin, map_width_, y, workspace);
  }

  void compute_pooled(const float* x, std::int64_t begin, std::int64_t end, float* y,
                      float* workspace) const override {
    if (pooled_ == nullptr) return RowwiseConv2d::compute_pooled(x, begin, end, y, workspace);
    slide(pooled_, x, 2 * begin, 2 * (end - begin), end - begin, out_width_, y, workspace);
  }

  std::size_t own_workspace(std::int64_t rows) const override {
    constexpr std::int64_t kLine = kAlignment / sizeof(float);
    const std::int64_t floats = padded_ ? source_rows(rows) * row_floats_ : 0;
    return static_cast<std::size_t>((floats + kLine - 1) / kLine * kLine);
  }

  std::string method() const override {
    return winograd_ ? "stencil, Winograd F(2x2, 3x3)" : "stencil, weights in registers";
  }

 private:
  // Rows of x that so many rows of the convolution read.
  std::int64_t source_rows(std::int64_t rows) const {
    return (rows - 1) * window_.height.stride + window_.height.kernel;
  }

  // Runs the kernel over `outputs` rows of y that cover the rows [first, first + rows) of the convolution.
  void slide(kernels::StencilKernel kernel, const float* x, std::int64_t first, std::int64_t rows,
             std::int64_t outputs, std::int64_t columns, float* y, float* workspace) const {
    const float* source =
        padded_ ? copy_padded(x, first, rows, workspace) : x + window_.height.begin(first) * row_floats_;
    kernels::StencilRow row{};
    row.row_pitch = row_floats_;
    row.row_step = window_.height.stride * row_floats_;
    row.column_step = window_.width.stride * in_;
    row.weights = weights_.data();
    row.bias = bias_.data();
    row.columns = columns;
    row.channels = out_;
    row.lowest = activation_.lowest();
    row.highest = activation_.highest();
    for (std::int64_t i = 0; i < outputs; ++i) {
      row.x = source + i * (rows / outputs) * row.row_step;
      row.out = y + i * columns * out_;
      kernel(row);
    }
  }

  // The rows of x that a block reads, with their padding around them. The copy is small beside the work:
  // there are few channels.
  const float* copy_padded(const float* x, std::int64_t first, std::int64_t rows, float* copy) const {
    std::fill_n(copy, source_rows(rows) * row_floats_, 0.0F);
    const std::int64_t top = window_.height.begin(first);
    for (std::int64_t r = 0; r < source_rows(rows); ++r) {
      if (top + r < 0 || top + r >= height_) continue;
      std::copy_n(x + (top + r) * width_ * in_, width_ * in_,
                  copy + r * row_floats_ + window_.width.pad_begin * in_);
    }
    return copy;
  }

  bool padded_;
  std::int64_t row_floats_;  // of x, with its padding
  AlignedBuffer weights_;
  bool winograd_ = false;
  kernels::StencilKernel plain_;
  kernels::StencilKernel pooled_ = nullptr;  // null where the pool is another, or there is none
};

}  // namespace

bool stencil_conv2d_fits(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels) {
  const Shape& kernel = attributes.array("kernel").shape;
  const auto dilations = parse_pair(attributes, "dilations", 1);
  return kernel.rank() == 4 && attributes.integer("groups", 1) == 1 && kernel[2] == x[3] &&
         dilations[0] == 1 && dilations[1] == 1 &&
         kernels::find_stencil(kernels, kernel[0], kernel[1] * kernel[2]) != nullptr;
}

std::unique_ptr<Operator> make_stencil_conv2d(const Attributes& attributes, const Shape& x,
                                              const kernels::KernelTable& kernels, bool exact) {
  return std::make_unique<StencilConv2d>(attributes, x, kernels, exact);
}

}  // namespace pyconv
