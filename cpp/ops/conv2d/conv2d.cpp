#include "ops/conv2d/conv2d.h"

#include "base/errors.h"
#include "ops/conv2d/algorithm.h"

namespace pyconv {

namespace {

std::unique_ptr<Operator> make_algorithm(const Attributes& attributes, const Shape& x,
                                         const kernels::KernelTable& kernels) {
  const bool exact = attributes.integer("exact", 0) != 0;
  if (attributes.integer("output_channels_first", 0) != 0) {
    if (depthwise_planes_conv2d_fits(attributes, x))
      return make_depthwise_planes_conv2d(attributes, x, kernels);
    if (pointwise_planes_conv2d_fits(attributes, x))
      return make_pointwise_planes_conv2d(attributes, x, kernels);
    throw ArgumentError(attributes.operation() +
                        ": output_channels_first: expected channels_first, no fused pool or residual, and a "
                        "depthwise convolution of 3x3 taps, stride 1 and a column of padding on either side, "
                        "or one of 1x1 taps without strides, padding and groups");
  }
  if (depthwise_conv2d_fits(attributes, x)) return make_depthwise_conv2d(attributes, x, kernels);
  if (pointwise_conv2d_fits(attributes, x)) return make_pointwise_conv2d(attributes, x, kernels);
  if (stencil_conv2d_fits(attributes, x, kernels)) return make_stencil_conv2d(attributes, x, kernels, exact);
  if (!exact && winograd_conv2d_fits(attributes, x)) return make_winograd_conv2d(attributes, x, kernels);
  return make_indirect_conv2d(attributes, x, kernels);
}

}  // namespace

std::unique_ptr<Operator> make_conv2d(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels) {
  Shape x = inputs[0];
  const bool channels_first = attributes.integer("channels_first", 0) != 0;
  if (x.rank() != 4) {
    throw ArgumentError(
        attributes.operation(), "x",
        channels_first ? "shape (n, channels, height, width)" : "shape (n, height, width, channels)",
        to_string(x));
  }
  if (channels_first) x = Shape{x[0], x[2], x[3], x[1]};
  std::unique_ptr<Operator> made = make_algorithm(attributes, x, kernels);
  const bool residual = attributes.integer("residual", 0) != 0;
  if (inputs.size() != (residual ? 2 : 1)) {
    throw ArgumentError(attributes.operation(), "inputs",
                        residual ? "x and the residual that is added" : "x alone, unless residual is 1",
                        std::to_string(inputs.size()));
  }
  if (residual && inputs[1] != made->output_shape()) {
    throw ArgumentError(attributes.operation(), "residual",
                        "the output's shape, " + to_string(made->output_shape()), to_string(inputs[1]));
  }
  return made;
}

}  // namespace pyconv
