// Sums that are both fast and accurate.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pyconv {

// The sum of f(i), a float, over 0 <= i < count: in sixteen float32 sums side by side, which go into a double
// before they are long enough to lose anything.
template <class F>
double partial_sums(std::int64_t count, F&& f) {
  constexpr std::int64_t kParts = 16;
  constexpr std::int64_t kBlock = 64 * kParts;
  double total = 0.0;
  if (count < kParts) {
    for (std::int64_t i = 0; i < count; ++i) total += static_cast<double>(f(i));
    return total;
  }
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, count);
    float parts[kParts] = {};
    std::int64_t i = begin;
    for (; i + kParts <= end; i += kParts) {
      for (std::int64_t p = 0; p < kParts; ++p) parts[p] += f(i + p);
    }
    for (; i < end; ++i) total += static_cast<double>(f(i));
    // By halves: additions in a row would wait for each other longer than all that came before.
    double sums[kParts];
    for (std::int64_t p = 0; p < kParts; ++p) sums[p] = static_cast<double>(parts[p]);
    for (std::int64_t half = kParts / 2; half > 0; half /= 2) {
      for (std::int64_t p = 0; p < half; ++p) sums[p] += sums[p + half];
    }
    total += sums[0];
  }
  return total;
}

}  // namespace pyconv
