// Matrix products: gathered rows, blocks of rows over panels, and those with narrow weights.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/cpu.h"
#include "benchmarks/kernel_benchmark.h"

namespace pyconv::benchmarks {

namespace {

using kernels::KernelTable;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One tile of gathered rows, whose taps lie in an image that stays in the first-level cache.
class MatrixTileBenchmark final : public KernelBenchmark {
 public:
  MatrixTileBenchmark(const KernelTable& table, int vectors, int rows, std::int64_t taps, std::int64_t depth)
      : kernel_(table.matrix[vectors - 1][rows - 1]),
        rows_(rows),
        width_(vectors * table.lanes),
        x_(uniform(taps * rows * depth, 1)),
        panel_(uniform(taps * depth * width_, 2)),
        bias_(uniform(width_, 3)),
        out_(static_cast<std::size_t>(rows * width_)) {
    // Backwards, so that taps which merely follow each other would show.
    for (std::int64_t i = taps * rows; i-- > 0;) pointers_.push_back(x_.data() + i * depth);
    tile_.rows = pointers_.data();
    tile_.taps = taps;
    tile_.depth = depth;
    tile_.panel = panel_.data();
    tile_.bias = bias_.data();
    tile_.out = out_.data();
    tile_.out_pitch = width_;
    tile_.columns = static_cast<int>(width_);
    tile_.lowest = 0.0F;
    tile_.highest = kInfinity;
  }

  void run() override { kernel_(tile_); }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t j = 0; j < width_; ++j) {
        double sum = static_cast<double>(bias_.data()[j]);
        for (std::int64_t t = 0; t < tile_.taps; ++t) {
          for (std::int64_t k = 0; k < tile_.depth; ++k) {
            sum += static_cast<double>(tile_.rows[t * rows_ + r][k]) *
                   static_cast<double>(tile_.panel[(t * tile_.depth + k) * width_ + j]);
          }
        }
        expected.push_back(clamp(sum, tile_.lowest, tile_.highest));
      }
    }
    return difference(all_of(out_), expected, product_tolerance(tile_.taps * tile_.depth));
  }

  Work work() const override {
    return {2.0 * static_cast<double>(rows_ * tile_.taps * tile_.depth * width_), 0};
  }

 private:
  kernels::MatrixKernel kernel_;
  std::int64_t rows_;
  std::int64_t width_;
  AlignedBuffer x_, panel_, bias_, out_;
  std::vector<const float*> pointers_;
  kernels::MatrixTile tile_{};
};

class MatrixBlockBenchmark final : public KernelBenchmark {
 public:
  // `columns` of each panel are wanted: all of them, unless there is only one panel.
  MatrixBlockBenchmark(const KernelTable& table, int vectors, std::int64_t rows, std::int64_t depth,
                       std::int64_t panels, std::int64_t columns)
      : kernel_(table.matrix_block[vectors - 1]),
        width_(vectors * table.lanes),
        x_(uniform(rows * depth, 1)),
        panels_(uniform(panels * (depth + 1) * width_, 2)),
        out_(static_cast<std::size_t>(rows * (panels == 1 ? columns : panels * width_))) {
    block_.x = x_.data();
    block_.x_pitch = depth;
    block_.rows = rows;
    block_.depth = depth;
    block_.panel = panels_.data();
    block_.panels = panels;
    block_.panel_pitch = (depth + 1) * width_;
    block_.out = out_.data();
    block_.columns = static_cast<int>(columns);
    block_.out_pitch = panels == 1 ? columns : panels * width_;
    block_.finish = true;
    block_.fetch = !cpu_fetches_far_ahead();
    block_.lowest = 0.0F;
    block_.highest = kInfinity;
  }

  void run() override { kernel_(block_); }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      for (std::int64_t column = 0; column < block_.out_pitch; ++column) {
        const float* panel = block_.panel + column / width_ * block_.panel_pitch + column % width_;
        double sum = static_cast<double>(panel[block_.depth * width_]);
        for (std::int64_t k = 0; k < block_.depth; ++k) {
          sum +=
              static_cast<double>(block_.x[r * block_.x_pitch + k]) * static_cast<double>(panel[k * width_]);
        }
        expected.push_back(clamp(sum, block_.lowest, block_.highest));
      }
    }
    return difference(all_of(out_), expected, product_tolerance(block_.depth));
  }

  Work work() const override {
    // With few rows the weights' way from the cache is the limit.
    const double weights = static_cast<double>(panels_.size() * sizeof(float));
    return {2.0 * static_cast<double>(block_.rows * block_.depth * block_.out_pitch),
            block_.rows <= 2 ? weights : 0};
  }

 private:
  kernels::MatrixBlockKernel kernel_;
  std::int64_t width_;
  AlignedBuffer x_, panels_, out_;
  kernels::MatrixBlock block_{};
};

enum class Narrow { kBfloat16, kInt8, kInteger };

class NarrowBenchmark final : public KernelBenchmark {
 public:
  NarrowBenchmark(const KernelTable& table, Narrow kind, std::int64_t rows, std::int64_t depth,
                  std::int64_t columns)
      : kind_(kind),
        kernel_(kind == Narrow::kBfloat16 ? table.bfloat16_product
                : kind == Narrow::kInt8   ? table.int8_product
                                          : table.integer_product),
        width_(2 * table.lanes),
        strips_((columns + width_ - 1) / width_),
        element_bytes_(kind == Narrow::kBfloat16 ? 2 : 1),
        x_(uniform(rows * depth, 1)),
        integers_(static_cast<std::size_t>(rows * depth + 1)),
        scales_(uniform(strips_ * width_, 2)),
        bias_(uniform(strips_ * width_, 3)),
        out_(static_cast<std::size_t>(rows * columns)) {
    for (std::int64_t i = 0; i < rows * depth; ++i) {
      integers_[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(255.0F * x_.data()[i]);
    }
    const std::int64_t groups = (depth + kernel_.group - 1) / kernel_.group;
    product_.strip_bytes = groups * kernel_.group * width_ * element_bytes_;
    matrix_.resize(static_cast<std::size_t>(strips_ * product_.strip_bytes));
    const AlignedBuffer values = uniform(depth * columns, 4);
    for (std::int64_t k = 0; k < depth; ++k) {
      for (std::int64_t j = 0; j < columns; ++j) set(k, j, values.data()[k * columns + j]);
    }
    product_.x = kind == Narrow::kInteger ? static_cast<const void*>(integers_.data()) : x_.data();
    product_.x_pitch = depth;
    product_.rows = rows;
    product_.depth = depth;
    product_.matrix = matrix_.data();
    product_.scales = scales_.data();
    product_.bias = bias_.data();
    product_.out = out_.data();
    product_.out_pitch = columns;
    product_.columns = columns;
    product_.lowest = -kInfinity;
    product_.highest = kInfinity;
  }

  void run() override { kernel_.run(product_); }

  std::string fault() const override {
    std::vector<double> expected;
    double most = 0;  // of a product, which is as large as a sum's error is small
    for (std::int64_t r = 0; r < product_.rows; ++r) {
      for (std::int64_t j = 0; j < product_.columns; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < product_.depth; ++k) {
          const std::int64_t place = r * product_.depth + k;
          const double x = kind_ == Narrow::kInteger
                               ? static_cast<double>(integers_[static_cast<std::size_t>(place)])
                               : static_cast<double>(x_.data()[place]);
          const double weight = get(k, j);
          most = std::max(most, std::abs(x * weight));
          sum += x * weight;
        }
        expected.push_back(static_cast<double>(scales_.data()[j]) * sum +
                           static_cast<double>(bias_.data()[j]));
      }
    }
    return difference(all_of(out_), expected, most * product_tolerance(product_.depth));
  }

  Work work() const override {
    const double weights = static_cast<double>(product_.depth * product_.columns * element_bytes_);
    return {2.0 * static_cast<double>(product_.rows * product_.depth * product_.columns),
            product_.rows <= 2 ? weights : 0};
  }

 private:
  std::int64_t place(std::int64_t k, std::int64_t j) const {
    const std::int64_t group = kernel_.group;
    return j / width_ * product_.strip_bytes +
           ((k / group * width_ + j % width_) * group + k % group) * element_bytes_;
  }

  void set(std::int64_t k, std::int64_t j, float value) {
    char* target = matrix_.data() + place(k, j);
    if (kind_ == Narrow::kBfloat16) {
      const auto half = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      std::memcpy(target, &half, sizeof half);
    } else {
      *target = static_cast<char>(static_cast<std::int8_t>(127.0F * value));
    }
  }

  double get(std::int64_t k, std::int64_t j) const {
    const char* source = matrix_.data() + place(k, j);
    if (kind_ != Narrow::kBfloat16) return static_cast<double>(static_cast<std::int8_t>(*source));
    std::uint16_t half;
    std::memcpy(&half, source, sizeof half);
    return static_cast<double>(std::bit_cast<float>(std::uint32_t{half} << 16));
  }

  Narrow kind_;
  kernels::NarrowKernel kernel_;
  std::int64_t width_, strips_, element_bytes_;
  AlignedBuffer x_;
  std::vector<std::int16_t> integers_;
  AlignedBuffer scales_, bias_, out_;
  std::vector<char> matrix_;
  kernels::NarrowProduct product_{};
};

}  // namespace

void add_matrix_kernels(List& list) {
  const KernelTable& table = list.table();
  struct Product {
    std::int64_t taps;
    std::int64_t depth;
  };
  // Taps apart, and windows whose rows are one tap each.
  for (const auto& [taps, depth] : {Product{9, 16}, Product{3, 48}}) {
    for (int vectors = 1; vectors <= kernels::kMaxPanelVectors; ++vectors) {
      for (int rows = 1; rows <= table.matrix_rows[vectors - 1]; ++rows) {
        const std::string name = text("matrix<", vectors, ",", rows, ">/taps:", taps, "/depth:", depth);
        list.add<MatrixTileBenchmark>(name, vectors, rows, taps, depth);
      }
    }
  }

  struct Block {
    int vectors;
    std::int64_t rows;
    std::int64_t depth;
    std::int64_t columns;
  };
  const std::int64_t lanes = table.lanes;
  for (const Block& block : {
           Block{2, 48, 16, 2 * lanes},  // a plane of Winograd's, on one panel
           Block{2, 48, 32, 2 * lanes},
           Block{2, 48, 64, 2 * lanes},
           Block{2, 48, 128, 2 * lanes},
           Block{2, 48, 256, 2 * lanes},
           Block{1, 48, 64, lanes},
           Block{2, 4, 64, 2 * lanes},
           Block{2, 9, 64, 2 * lanes},
           Block{2, 16, 64, 2 * lanes},
           Block{2, 96, 64, 256},  // 1x1 convolutions
           Block{2, 96, 256, 64},
           Block{2, 96, 512, 128},
           Block{2, 96, 32, 64},
           Block{2, 96, 96, 2 * lanes},
           Block{2, 1, 128, 128},
           Block{2, 1, 1600, 128},  // dense layers
           Block{2, 1, 5408, 128},
           Block{2, 2, 1600, 128},
           Block{2, 4, 1600, 128},
           Block{2, 16, 1600, 128},
           Block{2, 64, 1600, 128},
           Block{lanes >= 10 ? 1 : 2, 1, 128, 10},
           Block{lanes >= 10 ? 1 : 2, 64, 128, 10},
       }) {
    const std::int64_t width = block.vectors * lanes;
    if (block.columns > width && block.columns % width != 0) continue;  // of several panels all are whole
    const std::int64_t panels = std::max<std::int64_t>(block.columns / width, 1);
    list.add<MatrixBlockBenchmark>(text("matrix_block<", block.vectors, ">/rows:", block.rows,
                                        "/depth:", block.depth, "/columns:", block.columns),
                                   block.vectors, block.rows, block.depth, panels,
                                   std::min(block.columns, width));
  }

  for (const std::int64_t rows : {1, 2, 4, 32}) {
    const std::string sizes = text("/rows:", rows, "/depth:1600/columns:128");
    list.add<NarrowBenchmark>("bfloat16_product" + sizes, Narrow::kBfloat16, rows, 1600, 128);
    list.add<NarrowBenchmark>("int8_product" + sizes, Narrow::kInt8, rows, 1600, 128);
    list.add<NarrowBenchmark>("integer_product" + sizes, Narrow::kInteger, rows, 1600, 128);
  }
}

}  // namespace pyconv::benchmarks
