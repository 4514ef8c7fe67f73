// Two-dimensional convolution.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX Conv over two spatial axes, channels last:
//
//   y[n, i, j, o] = activation(bias[o] + sum over u, v, c of
//       x[n, i * stride_h - top + u * dilation_h, j * stride_w - left + v * dilation_w, g(o) + c] *
//       kernel[u, v, c, o])
//
// where g(o) is the first input channel of o's group and x is zero outside the map. With pool_size and
// pool_strides a max pool over whole windows follows the activation.
//
// x: (n, height, width, in). kernel: (kernel_height, kernel_width, in / groups, out), Keras' layout.
// Throws ArgumentError where they do not fit each other.
std::unique_ptr<Operator> make_conv2d(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels);

}  // namespace pyconv
