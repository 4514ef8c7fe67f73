#include "benchmarks/kernel_benchmark.h"

#include <cmath>
#include <random>

namespace pyconv::benchmarks {

AlignedBuffer uniform(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> between(-1.0F, 1.0F);
  AlignedBuffer values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) values.data()[i] = between(random);
  return values;
}

double product_tolerance(std::int64_t terms) {
  return std::ldexp(std::pow(static_cast<double>(terms + 2), 1.5), -24);
}

std::string difference(std::span<const float> got, std::span<const double> expected, double tolerance) {
  if (got.size() != expected.size()) {
    return text("computed ", got.size(), " elements instead of ", expected.size());
  }
  double most = 0;
  std::size_t place = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (off <= most) continue;
    most = off;
    place = i;
    if (std::isnan(off)) break;
  }
  if (most <= tolerance) return {};
  return text("element ", place, " is ", got[place], ", by naive loops ", expected[place],
              "; allowed is a difference of ", tolerance);
}

}  // namespace pyconv::benchmarks
