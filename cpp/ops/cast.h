// Conversion between element types.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX Cast: every element of x as `dtype` (NumPy's name of it). Fractions are cut off; a number too large
// for an integer becomes the nearest that it has, NaN becomes 0; integers too large wrap around. Anything but
// 0 is true.
std::unique_ptr<Operator> make_cast(const Attributes& attributes, std::span<const TensorType> inputs,
                                    const kernels::KernelTable& kernels);

}  // namespace pyconv
