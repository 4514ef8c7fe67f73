// Where the maxima of a max pool come from.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// The second output of ONNX MaxPool, of int64: for each maximum that max_pool2d with the same attributes
// finds, its place among all elements of x, counted in the order (n, channels, height, width), or (n,
// channels, width, height) with storage_order 1; the first of several. x may not have the batch: places count
// from the first image on.
std::unique_ptr<Operator> make_max_pool2d_indices(const Attributes& attributes, std::span<const Shape> inputs,
                                                  const kernels::KernelTable& kernels);

}  // namespace pyconv
