// Which ISA level runs: decided once, high up.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace pyconv::kernels {

// The levels that this build holds and this CPU runs, the best last; never empty.
const std::vector<const KernelTable*>& available();

// The level of that name; throws ArgumentError, naming those available, for any other.
const KernelTable& level(const std::string& name);

// The level in use: the environment variable PYCONV_ISA's, or else the best. Decided at the first call;
// throws ArgumentError where PYCONV_ISA names a level that is not available.
const KernelTable& selected();

// Measures the float32 peak of one core at that level, in 10^9 operations a second (a fused
// multiply-add counts as two): the best of several runs that together take about `seconds`.
double peak_gflops(const KernelTable& table, double seconds);

}  // namespace pyconv::kernels
