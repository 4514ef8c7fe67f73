#include "ops/conv2d/conv2d.h"

#include "base/errors.h"
#include "ops/conv2d/algorithm.h"

namespace pyconv {

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
  const bool exact = attributes.integer("exact", 0) != 0;
  if (depthwise_conv2d_fits(attributes, x)) return make_depthwise_conv2d(attributes, x, kernels);
  if (pointwise_conv2d_fits(attributes, x)) return make_pointwise_conv2d(attributes, x, kernels);
  if (stencil_conv2d_fits(attributes, x, kernels)) return make_stencil_conv2d(attributes, x, kernels, exact);
  if (!exact && winograd_conv2d_fits(attributes, x)) return make_winograd_conv2d(attributes, x, kernels);
  return make_indirect_conv2d(attributes, x, kernels);
}

}  // namespace pyconv
