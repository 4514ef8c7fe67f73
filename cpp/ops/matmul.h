// Products of two computed matrices.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// a (…, m, k) · b (…, k, n) → (…, m, n), both of float32 or both of int32, which wraps around; the axes
// before broadcast as NumPy's do. `dense` is the faster one where b never changes.
std::unique_ptr<Operator> make_matmul(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels);

}  // namespace pyconv
