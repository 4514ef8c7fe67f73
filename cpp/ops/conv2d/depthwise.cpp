#include "ops/conv2d/algorithm.h"

namespace pyconv {

namespace {

// Each channel has a filter of its own: vectors run across channels.
class DepthwiseConv2d final : public RowwiseConv2d {
 public:
  DepthwiseConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : RowwiseConv2d(attributes, x, kernels),
        gatherer_(window_, height_, width_, in_, window_.width.kernel),
        zeros_(static_cast<std::size_t>(in_), 0.0F) {}

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               float* workspace) const override {
    const auto** taps = reinterpret_cast<const float**>(workspace);
    kernels::DepthwisePixel pixel{};
    pixel.taps = taps;
    pixel.count = gatherer_.taps();
    pixel.channels = in_;
    pixel.weights = kernel_.values.data();
    pixel.bias = bias_.data();
    pixel.out = y;
    pixel.lowest = activation_.lowest();
    pixel.highest = activation_.highest();
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t column = 0; column < map_width_; ++column, pixel.out += out_) {
        gatherer_.gather(x, row, column, 0, zeros_.data(), taps, 1);
        kernels_.depthwise(pixel);
      }
    }
  }

  std::size_t own_workspace(std::int64_t) const override { return pointer_floats(gatherer_.taps()); }
  std::string method() const override { return "depthwise"; }

 private:
  TapGatherer gatherer_;
  std::vector<float> zeros_;
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
