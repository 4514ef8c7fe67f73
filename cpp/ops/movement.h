// Operators that move elements, of any dtype, and compute nothing.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX Concat: the inputs one after the other along `axis`.
std::unique_ptr<Operator> make_concat(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels);

// The same elements under another shape. In `shape` at most one size is -1; where x has the batch, that is
// axis 0.
std::unique_ptr<Operator> make_reshape(const Attributes& attributes, std::span<const TensorType> inputs,
                                       const kernels::KernelTable& kernels);

// ONNX Transpose: axis i of y is axis permutation[i] of x.
std::unique_ptr<Operator> make_transpose(const Attributes& attributes, std::span<const TensorType> inputs,
                                         const kernels::KernelTable& kernels);

// ONNX Slice, resolved: y takes sizes[i] elements of axis i from starts[i] on, in steps of steps[i], which
// may be negative. The batch is taken whole: start 0, size -1, step 1.
std::unique_ptr<Operator> make_slice(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable& kernels);

// ONNX Pad: pads [begin of each axis, end of each axis], negative ones crop; mode constant, reflect, edge
// or wrap.
std::unique_ptr<Operator> make_pad(const Attributes& attributes, std::span<const TensorType> inputs,
                                   const kernels::KernelTable& kernels);

// Chosen places along some axes: `axes`, how many places each of them takes (`sizes`), and the places one
// axis after another (`indices`), from 0 on, in any order and as often as wanted. ONNX's Expand, Tile, Gather
// with constant indices and Resize by nearest neighbours are all this.
std::unique_ptr<Operator> make_take(const Attributes& attributes, std::span<const TensorType> inputs,
                                    const kernels::KernelTable& kernels);

// What each window of a convolution covers: x (n, height, width, channels) → (n, rows, columns, kernel
// height, kernel width, channels). Attributes kernel_size, strides and dilations, as conv2d has them; a
// padded x is padded before.
std::unique_ptr<Operator> make_patches(const Attributes& attributes, std::span<const TensorType> inputs,
                                       const kernels::KernelTable& kernels);

}  // namespace pyconv
