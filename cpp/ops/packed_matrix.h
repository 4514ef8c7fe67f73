// The right-hand matrix of a product, packed once for the micro-kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace pyconv {

// One or several (k, n) matrices of one size, cut into panels of one or two vectors' width W. A panel holds
// its W columns row after row, so that the kernel reads it from front to end, and then a bias of W floats:
//
//     columns   0 … W-1        W … 2W-1       …
//             ┌──────────┐   ┌──────────┐
//     row 0   │ 0 … W-1  │   │ 0 … W-1  │
//     row 1   │ W … 2W-1 │   │ W … 2W-1 │      numbers: position in the panel
//       ⋮     │    ⋮     │   │    ⋮     │
//     row k-1 │ … k·W-1  │   │ … k·W-1  │
//     bias    │    ⋮     │   │    ⋮     │
//             └──────────┘   └──────────┘
//
// The last panel is filled up with zero columns, and is one vector wide where that suffices. In memory panel
// 0 of all matrices comes first, matrix by matrix, then panel 1 of all: whoever goes through the matrices
// with one panel reads straight on.
class PackedMatrix {
 public:
  // values[(matrix * k + row) * pitch + column] are the `matrices` matrices; `bias` holds n floats, the same
  // for each, or is null for zeros.
  PackedMatrix(const float* values, std::int64_t matrices, std::int64_t k, std::int64_t n, std::int64_t pitch,
               const float* bias, const kernels::KernelTable& kernels);

  std::int64_t panels() const { return static_cast<std::int64_t>(panels_.size()); }
  // The first column of a panel, and how many of its columns are real.
  std::int64_t first_column(std::int64_t panel) const {
    return panels_[static_cast<std::size_t>(panel)].first;
  }
  std::int64_t columns(std::int64_t panel) const { return panels_[static_cast<std::size_t>(panel)].columns; }
  // The most rows of a tile, whichever panel it meets.
  std::int64_t max_rows() const { return max_rows_; }

  // Runs the kernel for `rows` gathered rows on one panel, whose part of the tile it fills in. The tile's
  // rows, taps, depth, bounds and out (where the panel's first column goes) are the caller's; taps * depth
  // must be k. There is one matrix.
  //
  // The tile is not copied: a copy would read two of its fields at once just after they were written apart,
  // for which the core waits until every store before them has left for the cache, the last tile's too.
  void multiply(kernels::MatrixTile& tile, std::int64_t rows, std::int64_t panel) const;

  // Runs the kernel for a block of rows on the panels [begin, end) of one matrix; the block's x, x_pitch,
  // rows, out (where the column first_column(begin) goes), out_pitch, finish and bounds are the caller's.
  void multiply(kernels::MatrixBlock& block, std::int64_t begin, std::int64_t end,
                std::int64_t matrix = 0) const;

 private:
  struct Panel {
    std::int64_t first;
    std::int64_t columns;
    int vectors;
    std::size_t values;  // offset into storage_, of matrix 0
    std::int64_t pitch;  // from a matrix to the next
  };
  std::int64_t k_;
  std::int64_t full_pitch_ = 0;  // from a panel of two vectors to the next
  std::vector<Panel> panels_;
  AlignedBuffer storage_;
  std::int64_t max_rows_ = 0;
  const kernels::KernelTable* kernels_;
};

// Cuts `count` rows into tiles of at most `most` rows, as equal as possible: a tile of few rows wastes
// most of what it loads. Returns how many rows the tile at `done` has.
std::int64_t balanced_tile(std::int64_t done, std::int64_t count, std::int64_t most);

}  // namespace pyconv
