#include "ops/conv2d.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/packed_matrix.h"
#include "ops/window.h"

namespace pyconv {

namespace {

// Rows of the convolution's output are computed in blocks. A block that feeds a fused pool lies in
// scratch memory, which should fit into the first-level cache beside the weights that stream through it.
constexpr std::int64_t kScratchFloats = 8192;
// A block has at least so many pixels, so that few tiles are cut short at its end.
constexpr std::int64_t kBlockPixels = 64;

struct Pool {
  std::array<std::int64_t, 2> size;
  std::array<std::int64_t, 2> strides;
};

// What all convolutions share: blocks of rows, activation and the fused pool. A derived class computes
// rows of pixels.
class Conv2d : public Operator {
 public:
  Conv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : kernels_(kernels),
        kernel_(attributes.array("kernel")),
        height_(x[1]),
        width_(x[2]),
        in_(x[3]),
        groups_(attributes.integer("groups", 1)),
        out_(kernel_.shape.rank() == 4 ? kernel_.shape[3] : 0),
        activation_(ActivationSpec::parse(attributes)) {
    const std::string& operation = attributes.operation();
    if (kernel_.shape.rank() != 4 || kernel_.shape.count() == 0) {
      throw ArgumentError(operation, "kernel", "shape (kernel_height, kernel_width, in / groups, out), none zero",
                          to_string(kernel_.shape));
    }
    if (groups_ < 1 || out_ % groups_ != 0 || kernel_.shape[2] * groups_ != in_) {
      throw ArgumentError(operation, "kernel",
                          "in / groups = " + std::to_string(in_) + " / " + std::to_string(groups_) +
                              " input channels and a multiple of " + std::to_string(groups_) + " filters",
                          to_string(kernel_.shape));
    }
    if (const Array* bias = attributes.optional_array("bias")) {
      if (bias->shape != Shape{out_}) {
        throw ArgumentError(operation, "bias", "shape (" + std::to_string(out_) + ",), one for each filter",
                            to_string(bias->shape));
      }
      bias_ = bias->values;
    } else {
      bias_.assign(static_cast<std::size_t>(out_), 0.0F);
    }
    window_ = Window2d::parse(attributes, kernel_.shape[0], kernel_.shape[1], false);
    const auto map = window_.output_size(operation, height_, width_);
    map_height_ = map[0];
    map_width_ = map[1];
    out_height_ = map_height_;
    out_width_ = map_width_;
    if (attributes.has("pool_size") || attributes.has("pool_strides")) {
      pool_ = Pool{parse_pair(attributes, "pool_size", 1), parse_pair(attributes, "pool_strides", 1)};
      const WindowAxis rows{pool_->size[0], pool_->strides[0], 1, 0, 0};
      const WindowAxis columns{pool_->size[1], pool_->strides[1], 1, 0, 0};
      const auto pooled = Window2d{rows, columns, false}.output_size(operation + ": the fused pool", map_height_,
                                                                     map_width_);
      out_height_ = pooled[0];
      out_width_ = pooled[1];
      // Pixels that no pooling window covers are never computed.
      map_width_ = (out_width_ - 1) * pool_->strides[1] + pool_->size[1];
      const std::int64_t rows_in_scratch = kScratchFloats / (map_width_ * out_);
      block_rows_ = (rows_in_scratch - pool_->size[0]) / pool_->strides[0] + 1;
    } else {
      block_rows_ = (kBlockPixels + map_width_ - 1) / map_width_;
    }
    block_rows_ = std::clamp<std::int64_t>(block_rows_, 1, out_height_);
    output_shape_ = Shape{x[0], out_height_, out_width_, out_};
  }

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape[0] * blocks();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t image = unit / blocks();
      const std::int64_t begin = unit % blocks() * block_rows_;
      const std::int64_t end = std::min(begin + block_rows_, out_height_);
      const float* x = inputs[0].data + image * height_ * width_ * in_;
      float* y = output.data + (image * out_height_ + begin) * out_width_ * out_;
      if (!pool_) {
        compute_activated(x, begin, end, y, workspace);
      } else {
        float* map = workspace + pointer_floats();
        const std::int64_t first = begin * pool_->strides[0];
        compute_activated(x, first, (end - 1) * pool_->strides[0] + pool_->size[0], map, workspace);
        pool_rows(map, end - begin, y);
      }
    }
  }

  std::size_t workspace_size() const override {
    if (!pool_) return pointer_floats();
    const std::int64_t rows = (block_rows_ - 1) * pool_->strides[0] + pool_->size[0];
    return pointer_floats() + static_cast<std::size_t>(rows * map_width_ * out_);
  }

  std::string algorithm() const override {
    return method() + activation_.fused_text() + (pool_ ? ", fused max_pool2d" : "");
  }

  // Of the whole map, also where a fused pool leaves out pixels: what the definition asks for.
  std::int64_t flops() const override {
    const auto map = window_.output_size("conv2d", height_, width_);
    return 2 * kernel_.shape.count() * map[0] * map[1];
  }

 protected:
  // The convolution's rows [begin, end), map_width_ pixels each, with clamping activations applied, to
  // (end - begin) * map_width_ * out_ floats at y.
  virtual void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
                       const float** pointers) const = 0;
  virtual std::string method() const = 0;
  // How many pointers `compute` needs.
  virtual std::int64_t pointer_count() const = 0;

  // The taps of a window that `gather` lists: all of them, or only the first of each row.
  void list_taps(std::int64_t columns) {
    tap_columns_ = columns;
    for (std::int64_t u = 0; u < window_.height.kernel; ++u) {
      for (std::int64_t v = 0; v < columns; ++v) {
        tap_offsets_.push_back((u * window_.height.dilation * width_ + v * window_.width.dilation) * in_);
      }
    }
  }

  // pointers[t * step]: where tap t of the pixel (row, column) reads its channels from `channel` on;
  // outside the map at `zeros`.
  void gather(const float* x, std::int64_t row, std::int64_t column, std::int64_t channel, const float* zeros,
              const float** pointers, std::int64_t step) const {
    const std::int64_t i = window_.height.begin(row);
    const std::int64_t j = window_.width.begin(column);
    const float* corner = x + (i * width_ + j) * in_ + channel;
    if (i >= 0 && j >= 0 && i + window_.height.extent() <= height_ && j + window_.width.extent() <= width_) {
      for (const std::int64_t offset : tap_offsets_) {
        *pointers = corner + offset;
        pointers += step;
      }
      return;
    }
    for (std::size_t t = 0; t < tap_offsets_.size(); ++t, pointers += step) {
      const auto u = static_cast<std::int64_t>(t) / tap_columns_;
      const auto v = static_cast<std::int64_t>(t) % tap_columns_;
      const std::int64_t tap_row = i + u * window_.height.dilation;
      const std::int64_t tap_column = j + v * window_.width.dilation;
      const bool inside = tap_row >= 0 && tap_row < height_ && tap_column >= 0 && tap_column < width_;
      *pointers = inside ? corner + tap_offsets_[t] : zeros;
    }
  }

  const kernels::KernelTable& kernels_;
  Array kernel_;
  std::vector<float> bias_;
  std::int64_t height_, width_, in_;
  std::int64_t groups_, out_;
  ActivationSpec activation_;
  Window2d window_;
  std::int64_t map_height_, map_width_;  // of the convolution's output that is computed
  std::int64_t out_height_, out_width_;  // after the fused pool

 private:
  std::int64_t blocks() const { return (out_height_ + block_rows_ - 1) / block_rows_; }

  // Pointers lie at the workspace's beginning, on cache lines of their own.
  static const float** pointers(float* workspace) { return reinterpret_cast<const float**>(workspace); }
  std::size_t pointer_floats() const {
    const auto bytes = static_cast<std::size_t>(pointer_count()) * sizeof(float*);
    return (bytes + kAlignment - 1) / kAlignment * (kAlignment / sizeof(float));
  }

  void compute_activated(const float* x, std::int64_t begin, std::int64_t end, float* y, float* workspace) const {
    compute(x, begin, end, y, pointers(workspace));
    if (!activation_.is_clamp()) {
      kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y,
                        (end - begin) * map_width_ * out_);
    }
  }

  void pool_rows(const float* map, std::int64_t rows, float* y) const {
    kernels::PoolRow row{};
    row.row_pitch = map_width_ * out_;
    row.height = pool_->size[0];
    row.width = pool_->size[1];
    row.stride = pool_->strides[1];
    row.columns = out_width_;
    row.channels = out_;
    for (std::int64_t i = 0; i < rows; ++i) {
      row.map = map + i * pool_->strides[0] * row.row_pitch;
      row.out = y + i * out_width_ * out_;
      kernels_.max_pool_row(row);
    }
  }

  std::int64_t tap_columns_ = 0;
  std::vector<std::int64_t> tap_offsets_;  // from the window's corner, in floats
  std::optional<Pool> pool_;
  std::int64_t block_rows_;  // of the output, in one unit of work
};

// The indirect convolution (Dukhan 2019): a matrix product whose left rows are the patches of x, gathered
// by pointers instead of copied as im2col does. Taps outside the map point at zeros.
class IndirectConv2d final : public Conv2d {
 public:
  IndirectConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2d(attributes, x, kernels) {
    const std::int64_t group_in = in_ / groups_;
    const std::int64_t group_out = out_ / groups_;
    // Where a patch's row is contiguous in x, it is one long tap.
    const bool whole_rows =
        groups_ == 1 && window_.width.dilation == 1 && window_.width.pad_begin == 0 && window_.width.pad_end == 0;
    const std::int64_t columns = whole_rows ? 1 : window_.width.kernel;
    list_taps(columns);
    taps_ = window_.height.kernel * columns;
    depth_ = whole_rows ? window_.width.kernel * in_ : group_in;
    zeros_ = AlignedBuffer(static_cast<std::size_t>(depth_));
    std::fill_n(zeros_.data(), depth_, 0.0F);
    for (std::int64_t g = 0; g < groups_; ++g) {
      matrices_.emplace_back(kernel_.values.data() + g * group_out, taps_ * depth_, group_out, out_,
                             bias_.data() + g * group_out, kernels);
    }
    kernel_.values = {};  // the panels hold them now
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               const float** rows) const override {
    const std::int64_t pixels = (end - begin) * map_width_;
    const std::int64_t group_in = in_ / groups_;
    const std::int64_t group_out = out_ / groups_;
    const std::int64_t most = matrices_[0].max_rows();
    kernels::MatrixTile tile{};
    tile.rows = rows;
    tile.taps = taps_;
    tile.depth = depth_;
    tile.out_pitch = out_;
    tile.lowest = activation_.lowest();
    tile.highest = activation_.highest();
    for (std::int64_t done = 0, count; done < pixels; done += count) {
      count = balanced_tile(done, pixels, most);
      for (std::int64_t g = 0; g < groups_; ++g) {
        gather_tile(x, begin * map_width_ + done, count, g * group_in, rows);
        tile.out = y + done * out_ + g * group_out;
        const PackedMatrix& matrix = matrices_[static_cast<std::size_t>(g)];
        for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) matrix.multiply(tile, count, panel);
      }
    }
  }

  std::string method() const override {
    if (window_.height.kernel == 1 && window_.width.kernel == 1) return "matrix product";
    return groups_ == 1 ? "indirect matrix product" : "indirect matrix product by group";
  }

  std::int64_t pointer_count() const override { return taps_ * kernels::kMaxMatrixRows; }

 private:
  // pointers[t * count + r]: tap t of the r-th pixel from `first` on, numbered along the rows of the map.
  void gather_tile(const float* x, std::int64_t first, std::int64_t count, std::int64_t channel,
                   const float** pointers) const {
    std::int64_t row = first / map_width_;
    std::int64_t column = first % map_width_;
    for (std::int64_t r = 0; r < count; ++r) {
      gather(x, row, column, channel, zeros_.data(), pointers + r, count);
      if (++column == map_width_) {
        column = 0;
        ++row;
      }
    }
  }

  std::int64_t taps_;
  std::int64_t depth_;  // floats in a tap
  AlignedBuffer zeros_;
  std::vector<PackedMatrix> matrices_;  // one a group
};

// Each channel has a filter of its own: vectors run across channels.
class DepthwiseConv2d final : public Conv2d {
 public:
  DepthwiseConv2d(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : Conv2d(attributes, x, kernels) {
    list_taps(window_.width.kernel);
    zeros_.assign(static_cast<std::size_t>(in_), 0.0F);
  }

 protected:
  void compute(const float* x, std::int64_t begin, std::int64_t end, float* y,
               const float** taps) const override {
    kernels::DepthwisePixel pixel{taps,          window_.height.kernel * window_.width.kernel,
                                  in_,           kernel_.values.data(),
                                  bias_.data(),  y,
                                  activation_.lowest(), activation_.highest()};
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t column = 0; column < map_width_; ++column, pixel.out += out_) {
        gather(x, row, column, 0, zeros_.data(), taps, 1);
        kernels_.depthwise(pixel);
      }
    }
  }

  std::string method() const override { return "depthwise"; }
  std::int64_t pointer_count() const override { return window_.height.kernel * window_.width.kernel; }

 private:
  std::vector<float> zeros_;
};

}  // namespace

std::unique_ptr<Operator> make_conv2d(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels) {
  const Shape& x = inputs[0];
  if (x.rank() != 4) {
    throw ArgumentError(attributes.operation(), "x", "shape (n, height, width, channels)", to_string(x));
  }
  const Array& kernel = attributes.array("kernel");
  const bool depthwise = attributes.integer("groups", 1) == x[3] && x[3] > 1 && kernel.shape.rank() == 4 &&
                         kernel.shape[3] == x[3];
  if (depthwise) return std::make_unique<DepthwiseConv2d>(attributes, x, kernels);
  return std::make_unique<IndirectConv2d>(attributes, x, kernels);
}

}  // namespace pyconv
