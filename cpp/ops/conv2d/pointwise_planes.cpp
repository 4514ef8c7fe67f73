#include <algorithm>
#include <cstring>

#include "ops/conv2d/algorithm.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

// Copies `rows` rows of `width` floats, which lie `pitch` apart, one behind the other. The width of a panel
// is one of few: known to the compiler, a row is a handful of moves and no call.
template <std::size_t kWidth>
void pack_rows(const float* x, std::int64_t pitch, std::int64_t rows, float* packed) {
  for (std::int64_t row = 0; row < rows; ++row) {
    std::memcpy(packed + row * static_cast<std::int64_t>(kWidth), x + row * pitch, kWidth * sizeof(float));
  }
}

// A window of one pixel, from planes to planes: the matrix product of filters by channels with channels by
// pixels, as these lie. What is packed into panels are the pixels, a strip at a time.
//
// A filter's bias is one weight more, of a channel that is 1 everywhere.
class PointwisePlanesConv2d final : public Conv2dAlgorithm {
 public:
  PointwisePlanesConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2dAlgorithm(attributes, x, kernels),
        pixels_(height_ * width_),
        depth_(in_ + 1),
        panel_width_(2 * kernels.lanes),
        panel_floats_((depth_ + 1) * panel_width_),
        panels_((pixels_ + panel_width_ - 1) / panel_width_),
        strip_panels_(std::clamp<std::int64_t>(kStripFloats / panel_floats_, 1, panels_)) {
    for (std::int64_t o = 0; o < out_; ++o) {
      for (std::int64_t c = 0; c < in_; ++c) {
        filters_.push_back(kernel_.values[static_cast<std::size_t>(c * out_ + o)]);
      }
      filters_.push_back(bias_[static_cast<std::size_t>(o)]);
    }
    kernel_.values = {};
    output_shape_ = Shape{x[0], out_, out_height_, out_width_};
  }

  std::string algorithm() const override { return method() + activation_.fused_text(); }

  // Panels of pixels, image by image.
  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape[0] * panels_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    for (std::int64_t unit = range.begin, panels; unit < range.end; unit += panels) {
      const std::int64_t image = unit / panels_;
      const std::int64_t first = unit % panels_;
      panels = std::min({strip_panels_, panels_ - first, range.end - unit});
      const std::int64_t pixel = first * panel_width_;
      const std::int64_t count = std::min(panels * panel_width_, pixels_ - pixel);
      float* y = output.data + image * out_ * pixels_ + pixel;
      pack(inputs[0].data + image * in_ * pixels_ + pixel, count, workspace);
      multiply(count, workspace, y);
      if (!activation_.is_clamp()) {
        for (std::int64_t o = 0; o < out_; ++o, y += pixels_) {
          kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y, count);
        }
      }
    }
  }

  std::size_t workspace_size() const override {
    return static_cast<std::size_t>(strip_panels_ * panel_floats_);
  }

 protected:
  std::string method() const override { return "matrix product by planes"; }

 private:
  // A strip of so many floats stays in the second-level cache while all filters meet it.
  static constexpr std::int64_t kStripFloats = 65536;

  // `count` pixels from x on to panels: their channels, then ones for the bias, then the zeros that the
  // kernel adds in its stead.
  void pack(const float* x, std::int64_t count, float* panel) const {
    for (; count > 0; count -= panel_width_, x += panel_width_, panel += panel_floats_) {
      const std::int64_t columns = std::min(count, panel_width_);
      if (columns < panel_width_) {
        for (std::int64_t c = 0; c < in_; ++c) {
          float* row = panel + c * panel_width_;
          std::fill(std::copy_n(x + c * pixels_, columns, row), row + panel_width_, 0.0F);
        }
      } else if (panel_width_ == 32) {
        pack_rows<32>(x, pixels_, in_, panel);
      } else if (panel_width_ == 16) {
        pack_rows<16>(x, pixels_, in_, panel);
      } else {
        pack_rows<8>(x, pixels_, in_, panel);
      }
      std::fill_n(panel + in_ * panel_width_, panel_width_, 1.0F);
      std::fill_n(panel + depth_ * panel_width_, panel_width_, 0.0F);
    }
  }

  // A few filters meet all panels of the strip, so that what is written of a plane lies in one piece.
  void multiply(std::int64_t count, const float* strip, float* y) const {
    const std::int64_t whole = count / panel_width_;
    const std::int64_t left = count % panel_width_;
    kernels::MatrixBlock block{};
    block.x_pitch = depth_;
    block.depth = depth_;
    block.panel_pitch = panel_floats_;
    block.out_pitch = pixels_;
    block.finish = true;
    block.lowest = activation_.lowest();
    block.highest = activation_.highest();
    for (std::int64_t o = 0; o < out_; o += block.rows) {
      block.rows = balanced_tile(o, out_, kernels_.matrix_rows[1]);
      block.x = filters_.data() + o * depth_;
      block.out = y + o * pixels_;
      block.panel = strip;
      block.panels = whole;
      block.columns = static_cast<int>(panel_width_);
      if (whole > 0) kernels_.matrix_block[1](block);
      if (left > 0) {
        block.out += whole * panel_width_;
        block.panel += whole * panel_floats_;
        block.panels = 1;
        block.columns = static_cast<int>(left);
        kernels_.matrix_block[1](block);
      }
    }
  }

  std::int64_t pixels_;
  std::int64_t depth_;  // channels, and one for the bias
  std::int64_t panel_width_, panel_floats_, panels_, strip_panels_;
  std::vector<float> filters_;  // (out, depth)
};

}  // namespace

bool pointwise_planes_conv2d_fits(const Attributes& attributes, const Shape& x) {
  return planes_fit(attributes) && pointwise_conv2d_fits(attributes, x);
}

std::unique_ptr<Operator> make_pointwise_planes_conv2d(const Attributes& attributes, const Shape& x,
                                                       const kernels::KernelTable& kernels) {
  return std::make_unique<PointwisePlanesConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
