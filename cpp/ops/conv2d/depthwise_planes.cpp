#include <algorithm>

#include "base/errors.h"
#include "ops/conv2d/algorithm.h"

namespace pyconv {

namespace {

// Each channel has a filter of its own, and its map is a plane: vectors run along its rows.
class DepthwisePlanesConv2d final : public Conv2dAlgorithm {
 public:
  DepthwisePlanesConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2dAlgorithm(attributes, x, kernels), zeros_(static_cast<std::size_t>(width_), 0.0F) {
    const WindowAxis& rows = window_.height;
    const WindowAxis& columns = window_.width;
    const bool fits = groups_ == in_ && out_ == in_ && rows.kernel == 3 && columns.kernel == 3 &&
                      rows.stride == 1 && columns.stride == 1 && rows.dilation == 1 &&
                      columns.dilation == 1 && columns.pad_begin == 1 && columns.pad_end == 1;
    if (!fits || !channels_first_ || pool_ || residual_) {
      throw ArgumentError(
          attributes.operation() +
          ": output_channels_first: expected a depthwise convolution of 3x3 taps, stride 1, "
          "a column of padding on either side, channels_first, and no fused pool or residual");
    }
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

std::unique_ptr<Operator> make_depthwise_planes_conv2d(const Attributes& attributes, const Shape& x,
                                                       const kernels::KernelTable& kernels) {
  return std::make_unique<DepthwisePlanesConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
