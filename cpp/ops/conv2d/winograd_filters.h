// The filters' side of Winograd's convolution.
#pragma once

#include <vector>

#include "kernels/kernels.h"
#include "ops/attributes.h"

namespace pyconv {

// G g G^T of every filter g of a kernel (3, 3, in, out), computed in double precision: (m + 2)^2 planes of
// (in, out).
std::vector<float> transform_filters(const kernels::WinogradKernels& winograd, const Array& kernel);

}  // namespace pyconv
