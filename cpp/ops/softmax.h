// Softmax and its logarithm.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// y = exp(x - max) / sum of exp(x - max) along `axis` (ONNX Softmax, opset 13), or its logarithm where the
// operation is log_softmax. The axis may not be a program's batch.
std::unique_ptr<Operator> make_softmax(const Attributes& attributes, std::span<const Shape> inputs,
                                       const kernels::KernelTable& kernels);

}  // namespace pyconv
