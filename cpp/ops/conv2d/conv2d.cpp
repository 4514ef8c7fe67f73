#include "ops/conv2d/conv2d.h"

#include "base/errors.h"
#include "ops/conv2d/algorithm.h"

namespace pyconv {

std::unique_ptr<Operator> make_conv2d(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels) {
  const Shape& x = inputs[0];
  if (x.rank() != 4) {
    throw ArgumentError(attributes.operation(), "x", "shape (n, height, width, channels)", to_string(x));
  }
  const bool exact = attributes.integer("exact", 0) != 0;
  if (depthwise_conv2d_fits(attributes, x)) return make_depthwise_conv2d(attributes, x, kernels);
  if (pointwise_conv2d_fits(attributes, x)) return make_pointwise_conv2d(attributes, x, kernels);
  if (stencil_conv2d_fits(attributes, x, kernels)) return make_stencil_conv2d(attributes, x, kernels, exact);
  if (!exact && winograd_conv2d_fits(attributes, x)) return make_winograd_conv2d(attributes, x, kernels);
  return make_indirect_conv2d(attributes, x, kernels);
}

}  // namespace pyconv
