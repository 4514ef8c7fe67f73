#include <algorithm>
#include <array>

#include "ops/conv2d/algorithm.h"

namespace pyconv {

namespace {

// Each channel has a filter of its own: vectors run across channels.
class DepthwiseConv2d final : public RowwiseConv2d {
 public:
  DepthwiseConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : RowwiseConv2d(attributes, x, kernels),
        gatherer_(window_, height_, width_, in_, window_.width.kernel),
        zeros_(static_cast<std::size_t>(width_ * in_), 0.0F) {
    const bool dense = window_.height.dilation == 1 && window_.width.dilation == 1;
    if (dense && window_.height.kernel == window_.width.kernel) {
      row_kernel_ = kernels::find_depthwise(kernels, window_.width.kernel, window_.width.stride);
    }
    if (row_kernel_ != nullptr) inside_ = window_.width.inside(width_, map_width_);
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               float* workspace) const override {
    const auto** taps = reinterpret_cast<const float**>(workspace);
    for (std::int64_t row = begin; row < end; ++row, y += map_width_ * out_) {
      compute_pixels(x, row, 0, inside_[0], y, taps);
      if (inside_[0] < inside_[1]) compute_inside(x, row, y, taps);
      compute_pixels(x, row, inside_[1], map_width_, y, taps);
    }
  }

  std::size_t own_workspace(std::int64_t) const override { return pointer_floats(gatherer_.taps()); }
  std::string method() const override { return "depthwise"; }

 private:
  void compute_pixels(const float* x, std::int64_t row, std::int64_t begin, std::int64_t end, float* y,
                      const float** taps) const {
    kernels::DepthwisePixel pixel{};
    pixel.taps = taps;
    pixel.count = gatherer_.taps();
    pixel.channels = in_;
    pixel.weights = kernel_.values.data();
    pixel.bias = bias_.data();
    pixel.lowest = activation_.lowest();
    pixel.highest = activation_.highest();
    for (std::int64_t column = begin; column < end; ++column) {
      gatherer_.gather(x, row, column, 0, zeros_.data(), taps, 1);
      pixel.out = y + column * out_;
      kernels_.depthwise(pixel);
    }
  }

  // The pixels of a row between whose taps no padding lies to the left or right.
  void compute_inside(const float* x, std::int64_t row, float* y, const float** rows) const {
    const std::int64_t first = window_.width.begin(inside_[0]) * in_;
    for (std::int64_t u = 0; u < window_.height.kernel; ++u) {
      const std::int64_t i = window_.height.begin(row) + u;
      rows[u] = i < 0 || i >= height_ ? zeros_.data() : x + i * width_ * in_ + first;
    }
    kernels::DepthwiseRow pixels{};
    pixels.rows = rows;
    pixels.channels = in_;
    pixels.weights = kernel_.values.data();
    pixels.bias = bias_.data();
    pixels.lowest = activation_.lowest();
    pixels.highest = activation_.highest();
    // The kernel goes over all columns for a few channels, then for the next: what it reads again should be
    // near.
    for (std::int64_t column = inside_[0]; column < inside_[1]; column += kColumns) {
      pixels.out = y + column * out_;
      pixels.columns = std::min(kColumns, inside_[1] - column);
      row_kernel_->run(pixels);
      for (std::int64_t u = 0; u < window_.height.kernel; ++u) {
        if (rows[u] != zeros_.data()) rows[u] += kColumns * window_.width.stride * in_;
      }
    }
  }

  static constexpr std::int64_t kColumns = 32;

  TapGatherer gatherer_;
  std::vector<float> zeros_;  // a row of padding
  const kernels::DepthwiseKernel* row_kernel_ = nullptr;
  std::array<std::int64_t, 2> inside_{0, 0};  // the columns that it computes
};

}  // namespace

bool depthwise_conv2d_fits(const Attributes& attributes, const Shape& x) {
  const Shape& kernel = attributes.array("kernel").shape;
  return x[3] > 1 && attributes.integer("groups", 1) == x[3] && kernel.rank() == 4 && kernel[3] == x[3];
}

std::unique_ptr<Operator> make_depthwise_conv2d(const Attributes& attributes, const Shape& x,
                                                const kernels::KernelTable& kernels) {
  return std::make_unique<DepthwiseConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
