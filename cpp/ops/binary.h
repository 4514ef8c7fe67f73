// Functions of two tensors, element by element.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// y = f(a, b) with NumPy's broadcasting; the operation's name (add, subtract, multiply, divide, maximum,
// minimum, power) chooses f. a and b are of one dtype, and so is y. Integers wrap around; their quotients are
// cut off towards zero, and one by zero is 0.
std::unique_ptr<Operator> make_binary(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels);

// The same for equal, less, less_or_equal, greater, greater_or_equal, of which y is bool, and for
// logical_and, logical_or, logical_xor, of which all are bool.
std::unique_ptr<Operator> make_comparison(const Attributes& attributes, std::span<const TensorType> inputs,
                                          const kernels::KernelTable& kernels);

// y = x where x >= 0 and slope * x elsewhere (ONNX PRelu), of float32; slope broadcasts to x.
std::unique_ptr<Operator> make_prelu(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable& kernels);

}  // namespace pyconv
