#include <algorithm>
#include <array>
#include <limits>

#include "ops/conv2d/algorithm.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

constexpr int kPlanes = 16;
// Fewer channels than this make the transforms dearer than the products that they save.
constexpr std::int64_t kFewestChannels = 16;

bool is_two_by_two(const std::array<std::int64_t, 2>& pair) { return pair[0] == 2 && pair[1] == 2; }

// G g G^T of one 3x3 filter, in double precision, with G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1].
std::array<double, kPlanes> transform_filter(const std::array<double, 9>& g) {
  std::array<double, 12> columns{};  // G g: four rows of three
  for (std::size_t j = 0; j < 3; ++j) {
    columns[j] = g[j];
    columns[3 + j] = (g[j] + g[3 + j] + g[6 + j]) / 2;
    columns[6 + j] = (g[j] - g[3 + j] + g[6 + j]) / 2;
    columns[9 + j] = g[6 + j];
  }
  std::array<double, kPlanes> result{};
  for (std::size_t i = 0; i < 4; ++i) {
    const double* row = columns.data() + 3 * i;
    result[4 * i] = row[0];
    result[4 * i + 1] = (row[0] + row[1] + row[2]) / 2;
    result[4 * i + 2] = (row[0] - row[1] + row[2]) / 2;
    result[4 * i + 3] = row[2];
  }
  return result;
}

// Winograd's F(2x2, 3x3): 16 matrix products of tiles by channels, each 1/16 of 4/9 of the direct work. A
// tile is just one window of a two-by-two pool, which the output's transform then takes in registers. Tiles
// of several images go through together, so that small maps fill the matrices too.
class WinogradConv2d final : public Conv2dAlgorithm {
 public:
  WinogradConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2dAlgorithm(attributes, x, kernels),
        tile_rows_((map_height_ + 1) / 2),
        tile_columns_((map_width_ + 1) / 2),
        gatherer_(tile_window(window_), height_, width_, in_, 4),
        zeros_(static_cast<std::size_t>(in_), 0.0F) {
    std::vector<float> planes[kPlanes];
    for (auto& plane : planes) plane.resize(static_cast<std::size_t>(in_ * out_));
    for (std::int64_t filter = 0; filter < in_ * out_; ++filter) {
      std::array<double, 9> g{};
      for (std::size_t tap = 0; tap < 9; ++tap) {
        g[tap] = static_cast<double>(
            kernel_.values[tap * static_cast<std::size_t>(in_ * out_) + static_cast<std::size_t>(filter)]);
      }
      const auto transformed = transform_filter(g);
      for (std::size_t p = 0; p < kPlanes; ++p) {
        planes[p][static_cast<std::size_t>(filter)] = static_cast<float>(transformed[p]);
      }
    }
    for (const auto& plane : planes) matrices_.emplace_back(plane.data(), in_, out_, out_, nullptr, kernels);
    kernel_.values = {};
    panel_floats_ = 2 * kernels.lanes;
    bias_.resize(static_cast<std::size_t>(out_ + panel_floats_), 0.0F);
    // The transformed input of a block should fit into a quarter of a usual second-level cache.
    block_tiles_ = std::clamp<std::int64_t>(kBlockFloats / (kPlanes * in_), 8, 64) / 8 * 8;
  }

  // A unit is a row of tiles.
  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape[0] * tile_rows_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    const std::int64_t end = range.end * tile_columns_;
    for (std::int64_t first = range.begin * tile_columns_, tiles; first < end; first += tiles) {
      tiles = std::min(block_tiles_, end - first);
      transform_input(inputs[0].data, first, tiles, workspace);
      for (std::int64_t panel = 0; panel < matrices_[0].panels(); ++panel) {
        multiply(tiles, panel, workspace);
        transform_output(first, tiles, panel, output.data, workspace);
      }
    }
    if (!activation_.is_clamp()) {  // then nothing is pooled: see winograd_conv2d_fits
      activate_rows(output.data, range);
    }
  }

  std::size_t workspace_size() const override {
    return static_cast<std::size_t>(kPlanes * block_tiles_ * (padded_in() + panel_floats_)) +
           pointer_floats(kPlanes);
  }

 protected:
  std::string method() const override { return "Winograd F(2x2, 3x3)"; }

 private:
  static constexpr std::int64_t kBlockFloats = 65536;

  struct Tile {
    std::int64_t image;
    std::int64_t row;
    std::int64_t column;
  };

  // The pixels under a tile: four by four, two further on from tile to tile.
  static Window2d tile_window(const Window2d& window) {
    Window2d tile = window;
    tile.height.kernel = tile.width.kernel = 4;
    tile.height.stride = tile.width.stride = 2;
    return tile;
  }

  Tile tile_at(std::int64_t index) const {
    const std::int64_t row = index / tile_columns_;
    return {row / tile_rows_, row % tile_rows_, index % tile_columns_};
  }

  // Workspace: pointers, then the transformed input [plane][tile][channel], then one panel of the products
  // [plane][tile][channel].
  static const float** pointers(float* workspace) { return reinterpret_cast<const float**>(workspace); }
  std::int64_t padded_in() const { return (in_ + 15) / 16 * 16; }
  std::int64_t input_pitch() const { return block_tiles_ * padded_in(); }
  std::int64_t product_pitch() const { return block_tiles_ * panel_floats_; }
  float* input_planes(float* workspace) const { return workspace + pointer_floats(kPlanes); }
  float* product_planes(float* workspace) const { return input_planes(workspace) + kPlanes * input_pitch(); }

  void transform_input(const float* x, std::int64_t first, std::int64_t tiles, float* workspace) const {
    const float** pixels = pointers(workspace);
    kernels::WinogradInput input{pixels, in_, input_planes(workspace), input_pitch()};
    for (std::int64_t t = 0; t < tiles; ++t, input.planes += padded_in()) {
      const Tile tile = tile_at(first + t);
      gatherer_.gather(x + tile.image * height_ * width_ * in_, tile.row, tile.column, 0, zeros_.data(),
                       pixels, 1);
      kernels_.winograd_input(input);
    }
  }

  void multiply(std::int64_t tiles, std::int64_t panel, float* workspace) const {
    const float* rows[kernels::kMaxMatrixRows];
    kernels::MatrixTile product{};
    product.rows = rows;
    product.taps = 1;
    product.depth = in_;
    product.out_pitch = panel_floats_;
    product.lowest = -std::numeric_limits<float>::infinity();
    product.highest = std::numeric_limits<float>::infinity();
    for (std::int64_t p = 0; p < kPlanes; ++p) {
      const PackedMatrix& matrix = matrices_[static_cast<std::size_t>(p)];
      const float* input = input_planes(workspace) + p * input_pitch();
      float* out = product_planes(workspace) + p * product_pitch();
      for (std::int64_t done = 0, count; done < tiles; done += count) {
        count = balanced_tile(done, tiles, matrix.max_rows());
        for (std::int64_t r = 0; r < count; ++r) rows[r] = input + (done + r) * padded_in();
        product.out = out + done * panel_floats_;
        matrix.multiply(product, count, panel);
      }
    }
  }

  void transform_output(std::int64_t first, std::int64_t tiles, std::int64_t panel, float* y,
                        float* workspace) const {
    const std::int64_t channel = matrices_[0].first_column(panel);
    kernels::WinogradOutput row{};
    row.plane_pitch = product_pitch();
    row.tile_pitch = panel_floats_;
    row.bias = bias_.data() + channel;
    row.channels = static_cast<int>(matrices_[0].columns(panel));
    row.row_pitch = map_width_ * out_;
    row.column_pitch = out_;
    row.lowest = activation_.lowest();
    row.highest = activation_.highest();
    for (std::int64_t done = 0; done < tiles; done += row.tiles) {
      const Tile tile = tile_at(first + done);
      row.planes = product_planes(workspace) + done * panel_floats_;
      row.tiles = std::min(tiles - done, tile_columns_ - tile.column);
      if (pool_) {
        row.out = y + ((tile.image * out_height_ + tile.row) * out_width_ + tile.column) * out_ + channel;
        kernels_.winograd_output_pooled(row);
      } else {
        row.rows = std::min<std::int64_t>(2, map_height_ - 2 * tile.row);
        row.columns = std::min(2 * row.tiles, map_width_ - 2 * tile.column);
        row.out =
            y + ((tile.image * map_height_ + 2 * tile.row) * map_width_ + 2 * tile.column) * out_ + channel;
        kernels_.winograd_output(row);
      }
    }
  }

  void activate_rows(float* y, UnitRange range) const {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t row = unit % tile_rows_ * 2;
      const std::int64_t rows = std::min<std::int64_t>(2, map_height_ - row);
      float* pixels = y + (unit / tile_rows_ * map_height_ + row) * map_width_ * out_;
      kernels_.activate(activation_.function, activation_.alpha, activation_.beta, pixels, pixels,
                        rows * map_width_ * out_);
    }
  }

  std::int64_t tile_rows_, tile_columns_;
  TapGatherer gatherer_;
  std::vector<float> zeros_;
  std::vector<PackedMatrix> matrices_;  // one a plane
  std::int64_t panel_floats_ = 0;
  std::int64_t block_tiles_ = 0;
};

}  // namespace

bool winograd_conv2d_fits(const Attributes& attributes, const Shape& x) {
  const Shape& kernel = attributes.array("kernel").shape;
  const bool three_by_three = kernel.rank() == 4 && kernel[0] == 3 && kernel[1] == 3 && kernel[2] == x[3];
  const bool plain = parse_pair(attributes, "strides", 1) == std::array<std::int64_t, 2>{1, 1} &&
                     parse_pair(attributes, "dilations", 1) == std::array<std::int64_t, 2>{1, 1} &&
                     attributes.integer("groups", 1) == 1;
  const bool pooled = attributes.has("pool_size") || attributes.has("pool_strides");
  const bool pool_fits = !pooled || (is_two_by_two(parse_pair(attributes, "pool_size", 1)) &&
                                     is_two_by_two(parse_pair(attributes, "pool_strides", 1)) &&
                                     ActivationSpec::parse(attributes).is_clamp());
  return three_by_three && plain && pool_fits && kernel[2] >= kFewestChannels && kernel[3] >= kFewestChannels;
}

std::unique_ptr<Operator> make_winograd_conv2d(const Attributes& attributes, const Shape& x,
                                               const kernels::KernelTable& kernels) {
  return std::make_unique<WinogradConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
