#include "ops/packed_matrix.h"

#include <algorithm>

#include "base/cpu.h"

namespace pyconv {

PackedMatrix::PackedMatrix(const float* values, std::int64_t matrices, std::int64_t k, std::int64_t n,
                           std::int64_t pitch, const float* bias, const kernels::KernelTable& kernels)
    : k_(k), max_rows_(kernels::kMaxMatrixRows), kernels_(&kernels) {
  std::size_t size = 0;
  for (std::int64_t first = 0; first < n;) {
    const int vectors = n - first > kernels.lanes ? 2 : 1;
    const std::int64_t width = vectors * kernels.lanes;
    const std::int64_t floats = ((k + 1) * width + 15) / 16 * 16;  // each starts on a cache line of its own
    panels_.push_back({first, std::min(width, n - first), vectors, size, floats});
    if (vectors == 2) full_pitch_ = matrices * floats;
    size += static_cast<std::size_t>(matrices * floats);
    max_rows_ = std::min<std::int64_t>(max_rows_, kernels.matrix_rows[vectors - 1]);
    first += width;
  }

  storage_ = AlignedBuffer(size);
  std::fill_n(storage_.data(), size, 0.0F);
  for (const Panel& panel : panels_) {
    const std::int64_t width = panel.vectors * kernels.lanes;
    for (std::int64_t matrix = 0; matrix < matrices; ++matrix) {
      float* packed = storage_.data() + panel.values + matrix * panel.pitch;
      for (std::int64_t row = 0; row < k; ++row, packed += width) {
        std::copy_n(values + (matrix * k + row) * pitch + panel.first, panel.columns, packed);
      }
      if (bias != nullptr) std::copy_n(bias + panel.first, panel.columns, packed);
    }
  }
}

void PackedMatrix::multiply(kernels::MatrixTile& tile, std::int64_t rows, std::int64_t panel_index) const {
  const Panel& panel = panels_[static_cast<std::size_t>(panel_index)];
  tile.panel = storage_.data() + panel.values;
  tile.bias = tile.panel + k_ * panel.vectors * kernels_->lanes;
  tile.columns = static_cast<int>(panel.columns);
  kernels_->matrix[panel.vectors - 1][rows - 1](tile);
}

void PackedMatrix::multiply(kernels::MatrixBlock& block, std::int64_t begin, std::int64_t end,
                            std::int64_t matrix) const {
  static const bool fetch = !cpu_fetches_far_ahead();
  block.fetch = fetch;
  block.depth = k_;
  while (begin < end) {
    const Panel& panel = panels_[static_cast<std::size_t>(begin)];
    const std::int64_t width = panel.vectors * kernels_->lanes;
    // The last panel may be a narrower one, or hold fewer columns.
    const bool whole = panel.columns == width && panel.vectors == 2;
    const std::int64_t last = end - 1;
    const bool last_whole = columns(last) == 2 * kernels_->lanes;
    block.panel = storage_.data() + panel.values + matrix * panel.pitch;
    block.panels = whole ? last - begin + (last_whole ? 1 : 0) : 1;
    block.panel_pitch = whole ? full_pitch_ : panel.pitch;
    block.columns = static_cast<int>(panel.columns);
    kernels_->matrix_block[panel.vectors - 1](block);
    begin += block.panels;
    block.out += block.panels * width;
  }
}

std::int64_t balanced_tile(std::int64_t done, std::int64_t count, std::int64_t most) {
  const std::int64_t left = count - done;
  const std::int64_t tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

}  // namespace pyconv
