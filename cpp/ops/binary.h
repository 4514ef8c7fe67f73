// Functions of two tensors, element by element.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// y = f(a, b) with NumPy's broadcasting; the operation's name (add, subtract, multiply, divide, maximum,
// minimum, power) chooses f.
std::unique_ptr<Operator> make_binary(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels);

}  // namespace pyconv
