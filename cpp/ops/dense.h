// A dense layer.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// y = activation(x · weights + bias): x (…, in), weights (in, out), bias (out,), y (…, out). ONNX Gemm and
// MatMul with a constant right-hand side.
std::unique_ptr<Operator> make_dense(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable& kernels);

}  // namespace pyconv
