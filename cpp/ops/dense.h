// A dense layer.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// y = activation(x · weights + bias): x (…, in), weights (in, out), bias (out,), y (…, out). ONNX Gemm and
// MatMul with a constant right-hand side.
// The attributes that every dense layer has, checked.
struct DenseWeights {
  const Array& weights;     // (in, out)
  std::vector<float> bias;  // zeros where there is none
  std::int64_t in, out;
};

// Throws ArgumentError where they do not fit each other or x.
DenseWeights parse_dense(const Attributes& attributes, const Shape& x);

std::unique_ptr<Operator> make_dense(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable& kernels);

}  // namespace pyconv
