// A small network that takes every road through the engine, for the tests in C++.
#pragma once

#include <memory>

#include "program/builder.h"

namespace pyconv::tests {

inline constexpr std::int64_t kImageFloats = 20 * 20;
inline constexpr std::int64_t kClasses = 10;

// (n, 20, 20, 1) → stencil, Winograd, depthwise, pointwise and gathered convolutions, pools, a sum of two
// branches, dense layers of every storage → (n, 10).
std::unique_ptr<Program> make_network(int threads);

}  // namespace pyconv::tests
