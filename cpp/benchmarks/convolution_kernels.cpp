// Stencils, Winograd's transforms, depthwise rows, pixels and planes.
#include <algorithm>
#include <limits>

#include "benchmarks/kernel_benchmark.h"
#include "ops/conv2d/winograd_filters.h"

namespace pyconv::benchmarks {

namespace {

using kernels::KernelTable;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double number(float x) { return static_cast<double>(x); }
double number(std::int64_t n) { return static_cast<double>(n); }

// A row of a first layer, pooled two by two or not; by Winograd's smallest tile, which takes weights of its
// own, where `winograd` says so.
class StencilBenchmark final : public KernelBenchmark {
 public:
  StencilBenchmark(const KernelTable& table, int height, int depth, std::int64_t step, bool pooled,
                   bool winograd, std::int64_t columns, std::int64_t channels)
      : kernel_(winograd ? table.winograd_stencil_pooled
                : pooled ? kernels::find_stencil(table, height, depth)->pooled
                         : kernels::find_stencil(table, height, depth)->plain),
        height_(height),
        depth_(depth),
        pool_(pooled ? 2 : 1),
        weights_{{height, depth, 1, channels}, {}},
        bias_(uniform(channels + table.lanes, 2)),
        out_(static_cast<std::size_t>(columns * channels)) {
    row_.row_pitch = (columns * pool_ - 1) * step + depth;
    row_.row_step = row_.row_pitch;
    row_.column_step = step;
    x_ = uniform((height + pool_ - 1) * row_.row_pitch, 1);
    const AlignedBuffer weights = uniform(height * depth * channels, 3);
    weights_.values.assign(weights.data(), weights.data() + weights.size());
    const std::vector<float> values =
        winograd ? transform_filters(table.winograd[0], weights_) : weights_.values;
    const auto floats = static_cast<std::int64_t>(values.size()) / channels;
    const std::int64_t lanes = table.lanes, vectors = (channels + lanes - 1) / lanes;
    packed_ = AlignedBuffer(static_cast<std::size_t>(vectors * floats * lanes));
    std::fill_n(packed_.data(), packed_.size(), 0.0F);
    for (std::int64_t k = 0; k < floats; ++k) {
      for (std::int64_t o = 0; o < channels; ++o) {
        packed_.data()[(o / lanes * floats + k) * lanes + o % lanes] =
            values[static_cast<std::size_t>(k * channels + o)];
      }
    }
    row_.x = x_.data();
    row_.weights = packed_.data();
    row_.bias = bias_.data();
    row_.columns = columns;
    row_.channels = channels;
    row_.out = out_.data();
    row_.lowest = 0.0F;
    row_.highest = kInfinity;
  }

  void run() override { kernel_(row_); }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t j = 0; j < row_.columns; ++j) {
      for (std::int64_t o = 0; o < row_.channels; ++o) {
        double most = -std::numeric_limits<double>::infinity();
        for (std::int64_t p = 0; p < pool_; ++p) {
          for (std::int64_t q = 0; q < pool_; ++q) most = std::max(most, convolved(p, j * pool_ + q, o));
        }
        expected.push_back(clamp(most, row_.lowest, row_.highest));
      }
    }
    // Winograd's sums are of larger factors than the definition's.
    return difference(all_of(out_), expected, 4 * product_tolerance(height_ * depth_));
  }

  Work work() const override {
    return {2.0 * number(pool_ * pool_ * height_ * depth_ * row_.columns * row_.channels), 0};
  }

 private:
  double convolved(std::int64_t i, std::int64_t j, std::int64_t o) const {
    double sum = number(row_.bias[o]);
    for (std::int64_t u = 0; u < height_; ++u) {
      for (std::int64_t d = 0; d < depth_; ++d) {
        const auto weight = static_cast<std::size_t>((u * depth_ + d) * row_.channels + o);
        sum += number(row_.x[(i + u) * row_.row_pitch + j * row_.column_step + d]) *
               number(weights_.values[weight]);
      }
    }
    return sum;
  }

  kernels::StencilKernel kernel_;
  std::int64_t height_, depth_, pool_;
  Array weights_;  // (height, depth, 1, channels)
  AlignedBuffer bias_, out_, x_, packed_;
  kernels::StencilRow row_{};
};

constexpr std::int64_t kTiles = 48;  // as many as the convolution takes at once

using Polynomial = std::vector<double>;

// (x - root) times p.
Polynomial times_factor(const Polynomial& p, double root) {
  Polynomial product(p.size() + 1, 0.0);
  for (std::size_t i = 0; i < p.size(); ++i) {
    product[i + 1] += p[i];
    product[i] -= root * p[i];
  }
  return product;
}

// The rows of B^T: see kernels.h.
std::vector<Polynomial> input_transform(const kernels::WinogradKernels& winograd) {
  std::vector<Polynomial> rows;
  for (int left_out = 0; left_out <= winograd.tile + 1; ++left_out) {
    Polynomial row = {1.0};
    for (int i = 0; i <= winograd.tile; ++i) {
      if (i != left_out) row = times_factor(row, winograd.points[i]);
    }
    row.resize(static_cast<std::size_t>(winograd.tile + 2), 0.0);
    rows.push_back(row);
  }
  return rows;
}

// The rows of A^T: powers of the points, and the point at infinity in the last of them alone.
std::vector<Polynomial> output_transform(const kernels::WinogradKernels& winograd) {
  std::vector<Polynomial> rows;
  for (int power = 0; power < winograd.tile; ++power) {
    Polynomial row;
    for (int i = 0; i <= winograd.tile; ++i) {
      double value = 1.0;
      for (int n = 0; n < power; ++n) value *= winograd.points[i];
      row.push_back(value);
    }
    row.push_back(power == winograd.tile - 1 ? 1.0 : 0.0);
    rows.push_back(row);
  }
  return rows;
}

// Element (i, j) of T d T^T for a square d.
template <class Element>
double transformed(const std::vector<Polynomial>& t, std::size_t i, std::size_t j, Element element) {
  double sum = 0;
  for (std::size_t u = 0; u < t[i].size(); ++u) {
    for (std::size_t v = 0; v < t[j].size(); ++v) sum += t[i][u] * t[j][v] * element(u, v);
  }
  return sum;
}

// A row of tiles beside each other.
class WinogradInputBenchmark final : public KernelBenchmark {
 public:
  WinogradInputBenchmark(const KernelTable& table, int which, std::int64_t channels)
      : winograd_(table.winograd[which]),
        side_(winograd_.tile + 2),
        channels_(channels),
        width_(kTiles * winograd_.tile + 2),
        plane_pitch_(kTiles * channels + 16),
        x_(uniform(side_ * width_ * channels, 1)),
        planes_(static_cast<std::size_t>(side_ * side_ * plane_pitch_)) {
    std::fill_n(planes_.data(), planes_.size(), 0.0F);
    for (std::int64_t t = 0; t < kTiles; ++t) {
      for (std::int64_t i = 0; i < side_; ++i) {
        for (std::int64_t j = 0; j < side_; ++j) {
          pixels_.push_back(x_.data() + (i * width_ + t * winograd_.tile + j) * channels);
        }
      }
    }
  }

  void run() override {
    for (std::int64_t t = 0; t < kTiles; ++t) {
      winograd_.input({tile(t), channels_, planes_.data() + t * channels_, plane_pitch_});
    }
  }

  std::string fault() const override {
    const std::vector<Polynomial> rows = input_transform(winograd_);
    const auto side = static_cast<std::size_t>(side_);
    std::vector<double> expected(planes_.size(), 0.0);
    for (std::size_t plane = 0; plane < side * side; ++plane) {
      for (std::int64_t t = 0; t < kTiles; ++t) {
        for (std::int64_t c = 0; c < channels_; ++c) {
          expected[plane * static_cast<std::size_t>(plane_pitch_) +
                   static_cast<std::size_t>(t * channels_ + c)] =
              transformed(rows, plane / side, plane % side,
                          [&](std::size_t u, std::size_t v) { return number(tile(t)[side * u + v][c]); });
        }
      }
    }
    return difference(all_of(planes_), expected, 1e-5 * number(side_));
  }

  Work work() const override { return {0, 2.0 * sizeof(float) * number(side_ * side_ * kTiles * channels_)}; }

 private:
  const float* const* tile(std::int64_t t) const { return pixels_.data() + t * side_ * side_; }

  const kernels::WinogradKernels& winograd_;
  std::int64_t side_, channels_, width_, plane_pitch_;
  AlignedBuffer x_, planes_;
  std::vector<const float*> pixels_;
};

// One panel of filters of a row of tiles.
class WinogradOutputBenchmark final : public KernelBenchmark {
 public:
  WinogradOutputBenchmark(const KernelTable& table, int which, bool pooled)
      : winograd_(table.winograd[which]),
        kernel_(pooled ? winograd_.output_pooled : winograd_.output),
        side_(winograd_.tile + 2),
        pool_(pooled ? 2 : 1),
        out_side_(winograd_.tile / pool_),
        channels_(2 * table.lanes),
        bias_(uniform(channels_, 1)),
        out_(static_cast<std::size_t>(kTiles * out_side_ * out_side_ * channels_)) {
    row_.plane_pitch = kTiles * channels_ + 16;
    planes_ = uniform(side_ * side_ * row_.plane_pitch, 2);
    row_.planes = planes_.data();
    row_.tile_pitch = channels_;
    row_.tiles = kTiles;
    row_.bias = bias_.data();
    row_.channels = static_cast<int>(channels_);
    row_.out = out_.data();
    row_.row_pitch = kTiles * out_side_ * channels_;
    row_.column_pitch = channels_;
    row_.rows = out_side_;
    row_.columns = kTiles * out_side_;
    row_.lowest = -kInfinity;
    row_.highest = kInfinity;
  }

  void run() override { kernel_(row_); }

  std::string fault() const override {
    const std::vector<Polynomial> rows = output_transform(winograd_);
    std::vector<double> expected(out_.size());
    for (std::int64_t i = 0; i < out_side_; ++i) {
      for (std::int64_t column = 0; column < row_.columns; ++column) {
        for (std::int64_t c = 0; c < channels_; ++c) {
          expected[static_cast<std::size_t>(i * row_.row_pitch + column * channels_ + c)] =
              pooled(rows, column / out_side_, i, column % out_side_, c);
        }
      }
    }
    return difference(all_of(out_), expected, 1e-5 * number(side_));
  }

  Work work() const override {
    return {0, sizeof(float) * number(kTiles * channels_ * (side_ * side_ + out_side_ * out_side_))};
  }

 private:
  double pooled(const std::vector<Polynomial>& rows, std::int64_t tile, std::int64_t i, std::int64_t j,
                std::int64_t c) const {
    double most = -std::numeric_limits<double>::infinity();
    for (std::int64_t p = 0; p < pool_; ++p) {
      for (std::int64_t q = 0; q < pool_; ++q) {
        const double y = transformed(
            rows, static_cast<std::size_t>(i * pool_ + p), static_cast<std::size_t>(j * pool_ + q),
            [&](std::size_t u, std::size_t v) {
              const auto plane = static_cast<std::int64_t>(u) * side_ + static_cast<std::int64_t>(v);
              return number(row_.planes[plane * row_.plane_pitch + tile * row_.tile_pitch + c]);
            });
        most = std::max(most, y + number(row_.bias[c]));
      }
    }
    return most;
  }

  const kernels::WinogradKernels& winograd_;
  void (*kernel_)(const kernels::WinogradOutput&);
  std::int64_t side_, pool_, out_side_, channels_;
  AlignedBuffer bias_, out_, planes_;
  kernels::WinogradOutput row_{};
};

// A row of outputs with a map of its own: by the kernel for rows, or pixel by pixel.
class DepthwiseBenchmark final : public KernelBenchmark {
 public:
  DepthwiseBenchmark(const KernelTable& table, int window, int stride, bool by_pixel, std::int64_t columns,
                     std::int64_t channels)
      : table_(table),
        by_pixel_(by_pixel),
        window_(window),
        stride_(stride),
        width_((columns - 1) * stride + window),
        x_(uniform(window * width_ * channels, 1)),
        weights_(uniform(window * window * channels, 2)),
        bias_(uniform(channels, 3)),
        out_(static_cast<std::size_t>(columns * channels)) {
    for (std::int64_t u = 0; u < window; ++u) rows_.push_back(x_.data() + u * width_ * channels);
    row_.rows = rows_.data();
    row_.channels = channels;
    row_.weights = weights_.data();
    row_.bias = bias_.data();
    row_.out = out_.data();
    row_.columns = columns;
    row_.lowest = 0.0F;
    row_.highest = kInfinity;
    for (std::int64_t j = 0; j < columns; ++j) {
      for (std::int64_t t = 0; t < window * window; ++t) {
        taps_.push_back(rows_[static_cast<std::size_t>(t / window)] + (j * stride + t % window) * channels);
      }
    }
  }

  void run() override {
    if (!by_pixel_) {
      kernels::find_depthwise(table_, window_, stride_)->run(row_);
      return;
    }
    kernels::DepthwisePixel pixel{taps_.data(), window_ * window_, row_.channels, row_.weights,
                                  row_.bias,    row_.out,          row_.lowest,   row_.highest};
    for (std::int64_t j = 0; j < row_.columns; ++j) {
      table_.depthwise(pixel);
      pixel.taps += pixel.count;
      pixel.out += row_.channels;
    }
  }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t j = 0; j < row_.columns; ++j) {
      for (std::int64_t c = 0; c < row_.channels; ++c) {
        double sum = number(row_.bias[c]);
        for (std::int64_t u = 0; u < window_; ++u) {
          for (std::int64_t v = 0; v < window_; ++v) {
            sum += number(row_.rows[u][(j * stride_ + v) * row_.channels + c]) *
                   number(row_.weights[(u * window_ + v) * row_.channels + c]);
          }
        }
        expected.push_back(clamp(sum, row_.lowest, row_.highest));
      }
    }
    return difference(all_of(out_), expected, product_tolerance(window_ * window_));
  }

  Work work() const override {
    return {2.0 * number(window_ * window_ * row_.columns * row_.channels),
            sizeof(float) * number((window_ * width_ + row_.columns) * row_.channels)};
  }

 private:
  const KernelTable& table_;
  bool by_pixel_;
  std::int64_t window_, stride_, width_;
  AlignedBuffer x_, weights_, bias_, out_;
  std::vector<const float*> rows_, taps_;
  kernels::DepthwiseRow row_{};
};

// A plane of a depthwise convolution.
class DepthwisePlaneBenchmark final : public KernelBenchmark {
 public:
  DepthwisePlaneBenchmark(const KernelTable& table, std::int64_t size)
      : kernel_(table.depthwise_plane),
        x_(uniform(size * size, 1)),
        weights_(uniform(9, 2)),
        out_(static_cast<std::size_t>(size * size)),
        zeros_(static_cast<std::size_t>(size), 0.0F) {
    plane_.x = x_.data();
    plane_.zeros = zeros_.data();
    plane_.height = size;
    plane_.width = size;
    plane_.weights = weights_.data();
    plane_.bias = 0.25F;
    plane_.lowest = 0.0F;
    plane_.highest = kInfinity;
    plane_.first = -1;
    plane_.rows = size;
    plane_.out = out_.data();
  }

  void run() override { kernel_(plane_); }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t i = 0; i < plane_.rows; ++i) {
      for (std::int64_t j = 0; j < plane_.width; ++j) {
        double sum = number(plane_.bias);
        for (std::int64_t u = 0; u < 3; ++u) {
          for (std::int64_t v = 0; v < 3; ++v) {
            sum += number(x(i + u - 1, j + v - 1)) * number(plane_.weights[u * 3 + v]);
          }
        }
        expected.push_back(clamp(sum, plane_.lowest, plane_.highest));
      }
    }
    return difference(all_of(out_), expected, product_tolerance(9));
  }

  Work work() const override {
    const std::int64_t pixels = plane_.height * plane_.width;
    return {2.0 * 9.0 * number(pixels), sizeof(float) * 2.0 * number(pixels)};
  }

 private:
  float x(std::int64_t i, std::int64_t j) const {
    const bool inside = i >= 0 && i < plane_.height && j >= 0 && j < plane_.width;
    return inside ? plane_.x[i * plane_.width + j] : 0.0F;
  }

  void (*kernel_)(const kernels::DepthwisePlane&);
  AlignedBuffer x_, weights_, out_;
  std::vector<float> zeros_;
  kernels::DepthwisePlane plane_{};
};

}  // namespace

void add_convolution_kernels(List& list) {
  const KernelTable& table = list.table();
  for (const kernels::StencilKernels& stencil : table.stencils) {
    // 3x9 is three by three pixels of three colours.
    const std::int64_t step = stencil.height < stencil.depth ? stencil.depth / stencil.height : 1;
    for (const std::int64_t channels : {32, 64}) {
      const std::string size =
          text("<", stencil.height, "x", stencil.depth, ">/columns:26/channels:", channels);
      list.add<StencilBenchmark>("stencil" + size, stencil.height, stencil.depth, step, false, false, 26,
                                 channels);
      list.add<StencilBenchmark>("stencil_pooled" + size, stencil.height, stencil.depth, step, true, false,
                                 13, channels);
    }
  }
  for (const std::int64_t columns : {13, 32, 111}) {
    list.add<StencilBenchmark>(text("winograd_stencil_pooled/columns:", columns, "/channels:64"), 3, 3, 1,
                               true, true, columns, 64);
  }

  for (int which = 0; which < kernels::kWinogradTiles; ++which) {
    const kernels::WinogradKernels& winograd = table.winograd[which];
    const std::string tile = text("<", winograd.tile, ">/tiles:", kTiles, "/channels:");
    for (const std::int64_t channels : {16, 64, 256}) {
      list.add<WinogradInputBenchmark>(text("winograd_input", tile, channels), which, channels);
    }
    const std::string panel = text(tile, 2 * table.lanes);
    list.add<WinogradOutputBenchmark>("winograd_output" + panel, which, false);
    if (winograd.output_pooled != nullptr) {
      list.add<WinogradOutputBenchmark>("winograd_output_pooled" + panel, which, true);
    }
  }

  for (const std::int64_t channels : {32, 144}) {
    const std::string sizes = text("/columns:32/channels:", channels);
    for (const kernels::DepthwiseKernel& kernel : table.depthwise_rows) {
      list.add<DepthwiseBenchmark>(text("depthwise_row<", kernel.window, ",", kernel.stride, ">", sizes),
                                   kernel.window, kernel.stride, false, 32, channels);
    }
    for (const int window : {3, 5}) {
      list.add<DepthwiseBenchmark>(text("depthwise/taps:", window * window, sizes), window, 1, true, 32,
                                   channels);
    }
  }
  for (const std::int64_t size : {7, 14, 56, 112}) {
    list.add<DepthwisePlaneBenchmark>(text("depthwise_plane/", size, "x", size), size);
  }
}

}  // namespace pyconv::benchmarks
