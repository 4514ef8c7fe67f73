// Weighted sums of places along one axis.
#pragma once

#include <memory>
#include <span>

#include "ops/operator.h"

namespace pyconv {

// Output o of `axis` is the sum over t of weights[o, t] times the place indices[o, t] of x: linear, cubic and
// antialiased Resize of one axis, for whichever coordinates. `weights` is (outputs, taps), `indices` as many
// integers row by row; a row whose indices are all -1 is `fill`.
std::unique_ptr<Operator> make_resample(const Attributes& attributes, std::span<const Shape> inputs,
                                        const kernels::KernelTable& kernels);

}  // namespace pyconv
