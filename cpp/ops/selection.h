// Operators that a tensor of indices or conditions steers.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX Gather: the places of `axis` of x that `indices`, of int32 or int64, names; its shape takes the place
// of the axis. A negative index counts from the end; one outside the axis takes the nearest place.
std::unique_ptr<Operator> make_gather(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels);

// ONNX Where: a where the condition, of bool, is true, else b; NumPy's broadcasting of all three.
std::unique_ptr<Operator> make_where(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable& kernels);

// ONNX ArgMax and ArgMin, of int64: the place along `axis` of the largest or smallest element; the first of
// several, the last with select_last_index 1. NaN counts as both. With keepdims 0 the axis goes.
std::unique_ptr<Operator> make_arg_extreme(const Attributes& attributes, std::span<const Shape> inputs,
                                           const kernels::KernelTable& kernels);

}  // namespace pyconv
