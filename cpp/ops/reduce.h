// Reductions over axes.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX ReduceMean, ReduceSum, ReduceMax and ReduceMin over `axes`, which may not name a program's batch;
// summed in double precision.
std::unique_ptr<Operator> make_reduce(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels);

}  // namespace pyconv
