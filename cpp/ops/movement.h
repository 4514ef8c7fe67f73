// Operators that move elements and compute nothing.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX Concat: the inputs one after the other along `axis`.
std::unique_ptr<Operator> make_concat(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels);

// The same elements under another shape. In `shape` at most one size is -1; where x has the batch, that is
// axis 0.
std::unique_ptr<Operator> make_reshape(const Attributes& attributes, std::span<const Shape> inputs,
                                       const kernels::KernelTable& kernels);

// ONNX Transpose: axis i of y is axis permutation[i] of x.
std::unique_ptr<Operator> make_transpose(const Attributes& attributes, std::span<const Shape> inputs,
                                         const kernels::KernelTable& kernels);

// ONNX Slice, resolved: y takes sizes[i] elements of axis i from starts[i] on, in steps of steps[i], which
// may be negative. The batch is taken whole: start 0, size -1, step 1.
std::unique_ptr<Operator> make_slice(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable& kernels);

// ONNX Pad: pads [begin of each axis, end of each axis], negative ones crop; mode constant, reflect, edge
// or wrap.
std::unique_ptr<Operator> make_pad(const Attributes& attributes, std::span<const Shape> inputs,
                                   const kernels::KernelTable& kernels);

}  // namespace pyconv
