#include "ops/packed_matrix.h"

#include <algorithm>

namespace pyconv {

PackedMatrix::PackedMatrix(const float* values, std::int64_t k, std::int64_t n, std::int64_t pitch,
                           const float* bias, const kernels::KernelTable& kernels)
    : max_rows_(kernels::kMaxMatrixRows), kernels_(&kernels) {
  std::size_t size = 0;
  for (std::int64_t first = 0; first < n;) {
    const int vectors = n - first > kernels.lanes ? 2 : 1;
    const std::int64_t width = vectors * kernels.lanes;
    // Each part starts on a cache line of its own.
    const auto aligned = [](std::int64_t count) { return static_cast<std::size_t>((count + 15) / 16 * 16); };
    panels_.push_back({first, std::min(width, n - first), vectors, size, size + aligned(k * width)});
    size += aligned(k * width) + aligned(width);
    max_rows_ = std::min<std::int64_t>(max_rows_, kernels.matrix_rows[vectors - 1]);
    first += width;
  }

  storage_ = AlignedBuffer(size);
  std::fill_n(storage_.data(), size, 0.0F);
  for (const Panel& panel : panels_) {
    const std::int64_t width = panel.vectors * kernels.lanes;
    for (std::int64_t row = 0; row < k; ++row) {
      std::copy_n(values + row * pitch + panel.first, panel.columns,
                  storage_.data() + panel.values + row * width);
    }
    if (bias != nullptr) std::copy_n(bias + panel.first, panel.columns, storage_.data() + panel.bias);
  }
}

void PackedMatrix::multiply(kernels::MatrixTile& tile, std::int64_t rows, std::int64_t panel_index) const {
  const Panel& panel = panels_[static_cast<std::size_t>(panel_index)];
  tile.panel = storage_.data() + panel.values;
  tile.bias = storage_.data() + panel.bias;
  tile.columns = static_cast<int>(panel.columns);
  kernels_->matrix[panel.vectors - 1][rows - 1](tile);
}

std::int64_t balanced_tile(std::int64_t done, std::int64_t count, std::int64_t most) {
  const std::int64_t left = count - done;
  const std::int64_t tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

}  // namespace pyconv
