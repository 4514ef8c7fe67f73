#include "ops/conv2d/winograd_filters.h"

#include <array>
#include <cstddef>

namespace pyconv {

namespace {

using Triple = std::array<double, 3>;

// G of F(m, 3): row p is (1, p, p^2) over the product of p's distances from the other points, and the last
// row, of the point at infinity, (0, 0, 1).
std::vector<Triple> filter_transform(const kernels::WinogradKernels& winograd) {
  std::vector<Triple> rows;
  for (int i = 0; i <= winograd.tile; ++i) {
    const double p = winograd.points[i];
    double distances = 1;
    for (int j = 0; j <= winograd.tile; ++j) {
      if (j != i) distances *= p - winograd.points[j];
    }
    rows.push_back({1 / distances, p / distances, p * p / distances});
  }
  rows.push_back({0, 0, 1});
  return rows;
}

}  // namespace

std::vector<float> transform_filters(const kernels::WinogradKernels& winograd, const Array& kernel) {
  const std::vector<Triple> rows = filter_transform(winograd);
  const auto count = static_cast<std::size_t>(kernel.shape[2] * kernel.shape[3]);
  std::vector<float> planes;
  planes.reserve(rows.size() * rows.size() * count);
  for (const Triple& down : rows) {
    for (const Triple& across : rows) {
      for (std::size_t filter = 0; filter < count; ++filter) {
        double sum = 0;
        for (std::size_t tap = 0; tap < 9; ++tap) {
          sum += down[tap / 3] * across[tap % 3] * static_cast<double>(kernel.values[tap * count + filter]);
        }
        planes.push_back(static_cast<float>(sum));
      }
    }
  }
  return planes;
}

}  // namespace pyconv
