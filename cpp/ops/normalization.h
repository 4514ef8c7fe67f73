// Normalisation by what is around an element, of which a network learns only the scale.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// ONNX LayerNormalization: every row, of the axes from `axis` on, less its mean and divided by its standard
// deviation, sqrt(variance + epsilon); then times `scale` plus `bias`, which have the row's elements (1 and
// 0).
std::unique_ptr<Operator> make_layer_normalization(const Attributes& attributes,
                                                   std::span<const Shape> inputs,
                                                   const kernels::KernelTable& kernels);

// ONNX LRN along the last axis: y[c] = x[c] / (bias + alpha / size · Σ x[k]²) ** beta, summed over the `size`
// channels around c that exist: size / 2, rounded down, of those after c, and the rest before.
std::unique_ptr<Operator> make_local_response_normalization(const Attributes& attributes,
                                                            std::span<const Shape> inputs,
                                                            const kernels::KernelTable& kernels);

}  // namespace pyconv
