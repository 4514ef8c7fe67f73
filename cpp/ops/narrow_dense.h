// A dense layer whose weights are stored in fewer bits.
#pragma once

#include <memory>

#include "ops/operator.h"

namespace pyconv {

// The operator `dense` where its attribute `storage` is not float32; see Dense for what it has in common.
//
//   storage        "bfloat16" or "int8"; the weights are rounded to it, and are what is left then
//   weight_scales  (out), for int8: each column's unit; its largest element / 127 where there is none
//   x_scale        for int8: x is first rounded to one of 256 whole numbers of this unit, as ONNX's
//                  QuantizeLinear does (NaN becomes 0), and the products are summed as integers, exactly
//   x_below        how many of the 256 lie below zero: the zero point of a uint8
//
// Throws ArgumentError where they do not fit.
std::unique_ptr<Operator> make_narrow_dense(const Attributes& attributes, const Shape& x,
                                            const kernels::KernelTable& kernels);

}  // namespace pyconv
