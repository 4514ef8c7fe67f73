#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "base/cpu.h"
#include "ops/conv2d/algorithm.h"
#include "ops/conv2d/winograd_filters.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

// Fewer channels than this make the transforms dearer than the products that they save.
constexpr std::int64_t kFewestChannels = 16;

// The error grows with the root of the channels; with more than these a tile above 4 would come near 1e-5 of
// the output's scale.
constexpr std::int64_t kMostChannelsOfLargeTiles = 64;

bool is_pair(const std::array<std::int64_t, 2>& pair, std::int64_t value) {
  return pair[0] == value && pair[1] == value;
}

std::int64_t tiles_along(std::int64_t size, std::int64_t tile) { return (size + tile - 1) / tile; }

// What a convolution of one image costs with a tile, in multiply-adds of one vector lane. The constants were
// fitted to measurements: an element of a transformed tile costs as much as kTransform multiply-adds; reading
// a weight as much as one where all of them stay in the second-level cache, else more.
double winograd_cost(const kernels::WinogradKernels& winograd, std::int64_t map_height,
                     std::int64_t map_width, std::int64_t in, std::int64_t out) {
  constexpr double kTransform = 10;
  const std::int64_t side = winograd.tile + 2;
  const std::int64_t planes = side * side;
  const std::int64_t tiles = tiles_along(map_height, winograd.tile) * tiles_along(map_width, winograd.tile);
  // A tile that the map cuts goes without its last point.
  const auto points = [&](std::int64_t size) {
    return tiles_along(size, winograd.tile) * side - (size % winograd.tile != 0 ? 1 : 0);
  };
  const std::int64_t products = points(map_height) * points(map_width);
  const std::int64_t bytes = planes * in * out * static_cast<std::int64_t>(sizeof(float));
  const double weight = bytes < (std::int64_t{1} << 20) ? 1 : bytes < (std::int64_t{12} << 20) ? 3 : 7;
  const auto count = [](std::int64_t n) { return static_cast<double>(n); };
  return count(in * out) * (count(products) + weight * count(planes)) +
         kTransform * count(in + out) * count(planes * tiles);
}

// Winograd's F(m x m, 3x3): (m + 2)^2 matrix products of tiles by channels, each 1 / (m + 2)^2 of the work
// that is left. Tiles of several images go through together, so that small maps fill the matrices too.
//
// Only the last output of m, along either axis, needs the product at the last point, the one at infinity.
// Where the map cuts a tile short that product is left out.
//
// A two-by-two pool that follows is taken in registers by the output's transform where windows lie inside
// tiles; for an odd m they do not, and then whole maps lie in scratch memory for a moment.
class WinogradConv2d final : public Conv2dAlgorithm {
 public:
  WinogradConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels,
                 const kernels::WinogradKernels& winograd)
      : Conv2dAlgorithm(attributes, x, kernels),
        winograd_(winograd),
        tile_(winograd.tile),
        side_(tile_ + 2),
        planes_(side_ * side_),
        tile_rows_(tiles_along(map_height_, tile_)),
        tile_columns_(tiles_along(map_width_, tile_)),
        cut_row_(map_height_ % tile_ != 0 ? tile_rows_ - 1 : tile_rows_),
        cut_column_(map_width_ % tile_ != 0 ? tile_columns_ - 1 : tile_columns_),
        whole_maps_(pool_ && winograd.output_pooled == nullptr),
        gatherer_(tile_window(window_, tile_), height_, width_, in_, side_),
        zeros_(static_cast<std::size_t>(in_), 0.0F) {
    pack_filters();
    panel_floats_ = 2 * kernels.lanes;
    bias_.resize(static_cast<std::size_t>(out_ + panel_floats_), 0.0F);
    const auto filter_bytes = static_cast<std::size_t>(planes_ * in_ * out_) * sizeof(float);
    const std::int64_t fitting = filter_bytes <= l2_cache_bytes() ? kFewTiles : kManyTiles;
    const std::int64_t map_tiles = tile_rows_ * tile_columns_;
    block_tiles_ = whole_maps_ ? std::max<std::int64_t>(fitting / map_tiles, 1) * map_tiles : fitting;
  }

  // A unit is a row of tiles; or one panel of filters on one image, where maps must be whole.
  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape[0] * (whole_maps_ ? filters_->panels() : tile_rows_);
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    if (whole_maps_) {
      run_maps(inputs[0].data, output.data, range, workspace);
    } else {
      run_rows(inputs[0].data, output.data, range, workspace);
      finish_rows(residual_ ? inputs[1].data : nullptr, output.data, range);
    }
  }

  std::size_t workspace_size() const override {
    const std::int64_t map = whole_maps_ ? block_tiles_ * tile_ * tile_ * panel_floats_ : 0;
    const std::int64_t strip = channels_first_ ? strip_floats() : 0;
    return pointer_floats(planes_) +
           static_cast<std::size_t>(planes_ * (input_pitch() + product_pitch()) + map + strip);
  }

 protected:
  std::string method() const override {
    const std::string m = std::to_string(tile_);
    return "Winograd F(" + m + "x" + m + ", 3x3)";
  }

 private:
  // So many tiles share one reading of the weights: a multiple of the rows of every matrix tile. Many where
  // the weights come from beyond the second-level cache: the tiles' transformed input need not stay in it,
  // since a core reads little of that while it multiplies. Few where the weights are near, so that they stay.
  static constexpr std::int64_t kManyTiles = 48;
  static constexpr std::int64_t kFewTiles = 24;

  struct Tile {
    std::int64_t image;
    std::int64_t row;
    std::int64_t column;
  };

  // The pixels under a tile, m further on from tile to tile.
  static Window2d tile_window(const Window2d& window, std::int64_t tile) {
    Window2d result = window;
    result.height.kernel = result.width.kernel = tile + 2;
    result.height.stride = result.width.stride = tile;
    return result;
  }

  void pack_filters() {
    const std::vector<float> planes = transform_filters(winograd_, kernel_);
    filters_.emplace(planes.data(), planes_, in_, out_, out_, nullptr, kernels_);
    kernel_.values = {};
  }

  Tile tile_at(std::int64_t index) const {
    const std::int64_t row = index / tile_columns_;
    return {row / tile_rows_, row % tile_rows_, index % tile_columns_};
  }

  void advance(Tile& tile) const {
    if (++tile.column < tile_columns_) return;
    tile.column = 0;
    if (++tile.row < tile_rows_) return;
    tile.row = 0;
    ++tile.image;
  }

  // The tiles [first, first + count) of one pass, in the order in which they lie in the planes: first those
  // that the map cuts below alone, then whole ones, then those cut on the right alone, then those cut both
  // ways. So those that need a plane, all of them or all that are whole along an axis or two, lie together.
  class Block {
   public:
    Block(const WinogradConv2d& conv, std::int64_t first, std::int64_t count) : first_(first) {
      std::array<std::int64_t, 4> sizes{};
      std::array<std::size_t, kManyTiles> groups;
      const auto tiles = static_cast<std::size_t>(count);
      Tile tile = conv.tile_at(first);
      for (std::size_t i = 0; i < tiles; ++i) {
        const bool below = tile.row == conv.cut_row_;
        groups[i] = tile.column == conv.cut_column_ ? (below ? 3 : 2) : (below ? 0 : 1);
        ++sizes[groups[i]];
        conv.advance(tile);
      }
      for (std::size_t g = 0; g < 4; ++g) ends_[g + 1] = ends_[g] + sizes[g];
      std::array<std::int64_t, 4> next{ends_[0], ends_[1], ends_[2], ends_[3]};
      for (std::size_t i = 0; i < tiles; ++i) places_[i] = next[groups[i]]++;
    }

    std::int64_t first() const { return first_; }
    std::int64_t count() const { return ends_[4]; }
    std::int64_t place(std::int64_t tile) const { return places_[static_cast<std::size_t>(tile - first_)]; }
    // The places, [begin, end), of those that need a plane of the last row of planes, or the last column.
    std::array<std::int64_t, 2> needing(bool last_row, bool last_column) const {
      return {ends_[last_row ? 1 : 0], ends_[last_column ? 2 : last_row ? 3 : 4]};
    }

   private:
    std::int64_t first_;
    std::array<std::int64_t, 5> ends_{};
    std::array<std::int64_t, kManyTiles> places_;
  };

  // Workspace: pointers, then the transformed input [plane][tile][channel], then one panel of the products
  // [plane][tile][channel], then that panel of whole maps, then rows of x with their channels last.
  static const float** pointers(float* workspace) { return reinterpret_cast<const float**>(workspace); }
  std::int64_t padded_in() const { return (in_ + 15) / 16 * 16; }
  // A transform touches all planes at once. At a pitch of whole pages they would all fall into the same few
  // lines of the first-level cache, so each plane begins a line further on.
  static constexpr std::int64_t kStagger = 16;
  std::int64_t input_pitch() const { return block_tiles_ * padded_in() + kStagger; }
  std::int64_t product_pitch() const { return block_tiles_ * panel_floats_ + kStagger; }
  float* input_planes(float* workspace) const { return workspace + pointer_floats(planes_); }
  float* product_planes(float* workspace) const { return input_planes(workspace) + planes_ * input_pitch(); }
  float* map(float* workspace) const { return product_planes(workspace) + planes_ * product_pitch(); }
  float* strip(float* workspace) const {
    return map(workspace) + (whole_maps_ ? block_tiles_ * tile_ * tile_ * panel_floats_ : 0);
  }
  // Of the rows of x under a block of tiles of one image.
  std::int64_t strip_floats() const {
    const std::int64_t rows = (block_tiles_ + tile_columns_ - 2) / tile_columns_ + 1;
    return std::min(rows * tile_ + 2, height_) * width_ * in_;
  }

  void run_rows(const float* x, float* y, UnitRange range, float* workspace) const {
    const std::int64_t end = range.end * tile_columns_;
    for (std::int64_t first = range.begin * tile_columns_, tiles; first < end; first += tiles) {
      tiles = balanced_tile(first, end, block_tiles_);
      const Block block(*this, first, tiles);
      transform_input(x, block, workspace);
      for (std::int64_t panel = 0; panel < filters_->panels(); ++panel) {
        multiply(block, panel, workspace);
        const std::int64_t channel = filters_->first_column(panel);
        transform_output(block, panel, y + channel, out_, 0, workspace);
      }
    }
  }

  void run_maps(const float* x, float* y, UnitRange range, float* workspace) const {
    const std::int64_t map_tiles = tile_rows_ * tile_columns_;
    const std::int64_t panels = filters_->panels();
    for (std::int64_t unit = range.begin; unit < range.end;) {
      const std::int64_t image = unit / panels;
      const std::int64_t begin = unit % panels;
      const std::int64_t whole = begin == 0 ? (range.end - unit) / panels : 0;
      const std::int64_t images = std::clamp<std::int64_t>(whole, 1, block_tiles_ / map_tiles);
      const std::int64_t end = whole > 0 ? panels : std::min(panels, begin + range.end - unit);
      const Block block(*this, image * map_tiles, images * map_tiles);
      transform_input(x, block, workspace);
      for (std::int64_t panel = begin; panel < end; ++panel) {
        multiply(block, panel, workspace);
        const std::int64_t channels = filters_->columns(panel);
        transform_output(block, panel, map(workspace), channels, image, workspace);
        pool_maps(images, channels, map(workspace),
                  y + image * out_height_ * out_width_ * out_ + filters_->first_column(panel));
      }
      unit += (images - 1) * panels + end - begin;
    }
  }

  // Image by image, since where x has its channels first only rows of one are brought to channels last at
  // once.
  void transform_input(const float* x, const Block& block, float* workspace) const {
    const std::int64_t end = block.first() + block.count();
    const std::int64_t map_tiles = tile_rows_ * tile_columns_;
    const float** pixels = pointers(workspace);
    kernels::WinogradInput input{pixels, in_, input_planes(workspace), input_pitch()};
    for (std::int64_t t = block.first(), next; t < end; t = next) {
      const std::int64_t image = t / map_tiles;
      next = std::min(end, (image + 1) * map_tiles);
      // Whole tiles, where the map is cut too: what is not wanted of them is computed from real pixels.
      const SourceRows rows = source_rows(tile_at(t).row * tile_, (tile_at(next - 1).row + 1) * tile_);
      const float* source = channels_last(x, image, rows, strip(workspace));
      for (std::int64_t i = t; i < next; ++i) {
        const Tile tile = tile_at(i);
        input.planes = input_planes(workspace) + block.place(i) * padded_in();
        gatherer_.gather(source, tile.row, tile.column, 0, zeros_.data(), pixels, 1);
        winograd_.input(input);
      }
    }
  }

  void multiply(const Block& tiles, std::int64_t panel, float* workspace) const {
    kernels::MatrixBlock block{};
    block.x_pitch = padded_in();
    block.out_pitch = panel_floats_;
    for (std::int64_t p = 0, row = 0, column = 0; p < planes_; ++p) {
      const auto [begin, end] = tiles.needing(row == side_ - 1, column == side_ - 1);
      if (++column == side_) {
        column = 0;
        ++row;
      }
      block.rows = end - begin;
      if (block.rows == 0) continue;
      block.x = input_planes(workspace) + p * input_pitch() + begin * padded_in();
      block.out = product_planes(workspace) + p * product_pitch() + begin * panel_floats_;
      filters_->multiply(block, panel, panel + 1, p);
    }
  }

  // Writes one panel's channels of the tiles to maps of `pitch` floats a pixel, which begin at `y` with the
  // image `image`; pooled unless whole maps are wanted.
  void transform_output(const Block& block, std::int64_t panel, float* y, std::int64_t pitch,
                        std::int64_t image, float* workspace) const {
    const bool pooled = pool_ && !whole_maps_;
    const std::int64_t height = pooled ? out_height_ : map_height_;
    const std::int64_t width = pooled ? out_width_ : map_width_;
    const std::int64_t side = pooled ? tile_ / 2 : tile_;
    kernels::WinogradOutput row{};
    row.plane_pitch = product_pitch();
    row.tile_pitch = panel_floats_;
    row.bias = bias_.data() + filters_->first_column(panel);
    row.channels = static_cast<int>(filters_->columns(panel));
    row.row_pitch = width * pitch;
    row.column_pitch = pitch;
    row.lowest = activation_.lowest();
    row.highest = activation_.highest();
    for (std::int64_t done = 0; done < block.count(); done += row.tiles) {
      const Tile tile = tile_at(block.first() + done);
      row.planes = product_planes(workspace) + block.place(block.first() + done) * panel_floats_;
      // Those that lie side by side on the map and in the planes: one that is cut lies apart.
      const std::int64_t last = tile.column < cut_column_ ? cut_column_ : tile_columns_;
      row.tiles = std::min(block.count() - done, last - tile.column);
      row.rows = std::min(side, height - side * tile.row);
      row.columns = std::min(side * row.tiles, width - side * tile.column);
      row.out = y + (((tile.image - image) * height + side * tile.row) * width + side * tile.column) * pitch;
      (pooled ? winograd_.output_pooled : winograd_.output)(row);
    }
  }

  void pool_maps(std::int64_t images, std::int64_t channels, const float* maps, float* y) const {
    kernels::PoolRow row{};
    row.row_pitch = map_width_ * channels;
    row.height = row.width = row.stride = 2;
    row.columns = out_width_;
    row.channels = channels;
    row.out_step = out_;
    for (std::int64_t i = 0; i < images * out_height_; ++i) {
      row.map = maps + 2 * i * row.row_pitch;
      row.out = y + i * out_width_ * out_;
      kernels_.max_pool_row(row);
    }
  }

  // What the output's transform does not do itself. Then nothing is pooled: see winograd_conv2d_fits.
  void finish_rows(const float* residual, float* y, UnitRange range) const {
    if (residual == nullptr && activation_.is_clamp()) return;
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t row = unit % tile_rows_ * tile_;
      const std::int64_t count = std::min(tile_, map_height_ - row) * map_width_ * out_;
      const std::int64_t place = (unit / tile_rows_ * map_height_ + row) * map_width_ * out_;
      if (residual != nullptr) {
        add_residual(residual + place, y + place, count);
      } else {
        kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y + place, y + place,
                          count);
      }
    }
  }

  const kernels::WinogradKernels& winograd_;
  std::int64_t tile_, side_, planes_;  // m, m + 2 and its square
  std::int64_t tile_rows_, tile_columns_;
  std::int64_t cut_row_, cut_column_;  // of tiles that the map cuts short, or one behind the last
  bool whole_maps_;
  TapGatherer gatherer_;
  std::vector<float> zeros_;
  std::optional<PackedMatrix> filters_;  // one matrix a plane
  std::int64_t panel_floats_ = 0;
  std::int64_t block_tiles_ = 0;
};

}  // namespace

bool winograd_conv2d_fits(const Attributes& attributes, const Shape& x) {
  const Shape& kernel = attributes.array("kernel").shape;
  const bool three_by_three = kernel.rank() == 4 && kernel[0] == 3 && kernel[1] == 3 && kernel[2] == x[3];
  const bool plain = is_pair(parse_pair(attributes, "strides", 1), 1) &&
                     is_pair(parse_pair(attributes, "dilations", 1), 1) &&
                     attributes.integer("groups", 1) == 1;
  const bool pooled = attributes.has("pool_size") || attributes.has("pool_strides");
  const bool pool_fits = !pooled || (is_pair(parse_pair(attributes, "pool_size", 1), 2) &&
                                     is_pair(parse_pair(attributes, "pool_strides", 1), 2) &&
                                     ActivationSpec::parse(attributes).is_clamp());
  return three_by_three && plain && pool_fits && kernel[2] >= kFewestChannels && kernel[3] >= kFewestChannels;
}

std::unique_ptr<Operator> make_winograd_conv2d(const Attributes& attributes, const Shape& x,
                                               const kernels::KernelTable& kernels) {
  // Whole maps of a pool across tiles must be few tiles to fit into the scratch memory.
  constexpr std::int64_t kMostMapTiles = 16;
  const Shape& kernel = attributes.array("kernel").shape;
  const bool pooled = attributes.has("pool_size") || attributes.has("pool_strides");
  const auto map = Window2d::parse(attributes, 3, 3, false).output_size(attributes.operation(), x[1], x[2]);
  const std::int64_t height = pooled ? map[0] / 2 * 2 : map[0];
  const std::int64_t width = pooled ? map[1] / 2 * 2 : map[1];
  const kernels::WinogradKernels* best = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const kernels::WinogradKernels& winograd : kernels.winograd) {
    if (winograd.tile > 4 && kernel[2] > kMostChannelsOfLargeTiles) continue;
    const bool across_tiles = pooled && winograd.output_pooled == nullptr;
    if (across_tiles &&
        tiles_along(height, winograd.tile) * tiles_along(width, winograd.tile) > kMostMapTiles) {
      continue;
    }
    const double cost = winograd_cost(winograd, height, width, kernel[2], kernel[3]);
    if (cost < least) {
      least = cost;
      best = &winograd;
    }
  }
  return std::make_unique<WinogradConv2d>(attributes, x, kernels, *best);
}

}  // namespace pyconv
