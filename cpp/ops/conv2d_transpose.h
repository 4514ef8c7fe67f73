// Transposed convolution.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// The transpose of conv2d as a linear map (ONNX ConvTranspose, Keras Conv2DTranspose): every pixel of x, (n,
// height, width, in), adds its multiple of the kernel, (kernel height, kernel width, in / groups, out), to
//
//   y[i * stride + u * dilation - pad, …] += x[i, …] · kernel[u, …]
//
// strides, dilations, groups, bias, activation, alpha and beta are those of conv2d; pads [top, left, bottom,
// right] are cut off the whole result, and may be negative; output_padding [height, width] are added below
// and on the right. strides[0] * strides[1] * groups is at most 65536.
std::unique_ptr<Operator> make_conv2d_transpose(const Attributes& attributes, std::span<const Shape> inputs,
                                                const kernels::KernelTable& kernels);

}  // namespace pyconv
