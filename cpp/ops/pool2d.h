// Two-dimensional pooling, channels last.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX MaxPool and AveragePool over two spatial axes of x (n, height, width, channels). A maximum ignores
// padding. An average divides by the taps inside the map, or with count_include_pad by those inside the
// padded map. A window without any tap inside gives -inf and 0.
std::unique_ptr<Operator> make_max_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                          const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_average_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                              const kernels::KernelTable& kernels);

// ONNX GlobalMaxPool and GlobalAveragePool: the window is the whole map, the output (n, 1, 1, channels).
std::unique_ptr<Operator> make_global_max_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                                 const kernels::KernelTable& kernels);
std::unique_ptr<Operator> make_global_average_pool2d(const Attributes& attributes,
                                                     std::span<const Shape> inputs,
                                                     const kernels::KernelTable& kernels);

}  // namespace pyconv
