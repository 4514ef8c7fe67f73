#include <algorithm>

#include "ops/conv2d/algorithm.h"

namespace pyconv {

namespace {

// Each channel has a filter of its own, and its map is a plane: vectors run along its rows.
class DepthwisePlanesConv2d final : public Conv2dAlgorithm {
 public:
  DepthwisePlanesConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2dAlgorithm(attributes, x, kernels), zeros_(static_cast<std::size_t>(width_), 0.0F) {
    for (std::int64_t c = 0; c < in_; ++c) {
      for (std::int64_t t = 0; t < 9; ++t) {
        weights_.push_back(kernel_.values[static_cast<std::size_t>(t * in_ + c)]);
      }
    }
    output_shape_ = Shape{x[0], out_, out_height_, out_width_};
  }

  std::string algorithm() const override { return method() + activation_.fused_text(); }

  // The rows of the output, plane by plane.
  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape[0] * in_ * out_height_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    kernels::DepthwisePlane plane{};
    plane.zeros = zeros_.data();
    plane.height = height_;
    plane.width = width_;
    plane.lowest = activation_.lowest();
    plane.highest = activation_.highest();
    for (std::int64_t unit = range.begin; unit < range.end; unit += plane.rows) {
      const std::int64_t row = unit % out_height_;
      const std::int64_t channel = unit / out_height_ % in_;
      plane.x = inputs[0].data + unit / out_height_ * height_ * width_;
      plane.weights = &weights_[static_cast<std::size_t>(channel * 9)];
      plane.bias = bias_[static_cast<std::size_t>(channel)];
      plane.first = window_.height.begin(row);
      plane.rows = std::min(out_height_ - row, range.end - unit);
      plane.out = output.data + unit * width_;
      kernels_.depthwise_plane(plane);
      if (!activation_.is_clamp()) {
        kernels_.activate(activation_.function, activation_.alpha, activation_.beta, plane.out, plane.out,
                          plane.rows * width_);
      }
    }
  }

 protected:
  std::string method() const override { return "depthwise by planes"; }

 private:
  std::vector<float> weights_;  // (channel, 9)
  std::vector<float> zeros_;    // a row of padding
};

}  // namespace

bool depthwise_planes_conv2d_fits(const Attributes& attributes, const Shape& x) {
  if (!planes_fit(attributes)) return false;
  const Shape& kernel = attributes.array("kernel").shape;
  const auto slides = [](const WindowAxis& axis) { return axis.stride == 1 && axis.dilation == 1; };
  const Window2d window = Window2d::parse(attributes, 3, 3, false);
  return kernel.rank() == 4 && kernel[0] == 3 && kernel[1] == 3 && kernel[2] == 1 && kernel[3] == x[3] &&
         attributes.integer("groups", 1) == x[3] && slides(window.height) && slides(window.width) &&
         window.width.pad_begin == 1 && window.width.pad_end == 1;
}

std::unique_ptr<Operator> make_depthwise_planes_conv2d(const Attributes& attributes, const Shape& x,
                                                       const kernels::KernelTable& kernels) {
  return std::make_unique<DepthwisePlanesConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
