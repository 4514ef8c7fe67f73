// Between real numbers and the small integers that stand for them.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX QuantizeLinear: y = saturate(round(x / scale) + zero_point), rounding halves to even. x and scale are
// of float32; y is of zero_point's dtype, an integer of 8 or 16 bits. scale and zero_point have one shape,
// which broadcasts to that of x.
std::unique_ptr<Operator> make_quantize(const Attributes& attributes, std::span<const TensorType> inputs,
                                        const kernels::KernelTable& kernels);

// ONNX DequantizeLinear: y = (x - zero_point) * scale, of float32; x and zero_point are integers of one dtype
// of at most 32 bits. scale and zero_point have one shape, which broadcasts to that of x.
std::unique_ptr<Operator> make_dequantize(const Attributes& attributes, std::span<const TensorType> inputs,
                                          const kernels::KernelTable& kernels);

}  // namespace pyconv
