#include "ops/conv2d/algorithm.h"

#include <algorithm>

#include "base/errors.h"

namespace pyconv {

namespace {

// A block that feeds a fused pool lies in scratch memory, which should fit into the first-level cache
// beside the weights that stream through it.
constexpr std::int64_t kScratchFloats = 8192;
// A strip of rows that come with their channels first should stay in the second-level cache until it is read.
constexpr std::int64_t kStripFloats = 32768;
// Other blocks have at least so many pixels, so that few tiles are cut short at their end.
constexpr std::int64_t kBlockPixels = 64;

}  // namespace

Conv2dAlgorithm::Conv2dAlgorithm(const Attributes& attributes, const Shape& x,
                                 const kernels::KernelTable& kernels)
    : kernels_(kernels),
      kernel_(attributes.array("kernel")),
      channels_first_(attributes.integer("channels_first", 0) != 0),
      height_(x[1]),
      width_(x[2]),
      in_(x[3]),
      groups_(attributes.integer("groups", 1)),
      out_(kernel_.shape.rank() == 4 ? kernel_.shape[3] : 0),
      residual_(attributes.integer("residual", 0) != 0),
      last_activation_(ActivationSpec::parse(attributes)) {
  if (!residual_) activation_ = last_activation_;
  const std::string& operation = attributes.operation();
  if (kernel_.shape.rank() != 4 || kernel_.shape.count() == 0) {
    throw ArgumentError(operation, "kernel",
                        "shape (kernel_height, kernel_width, in / groups, out), none of them 0",
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
    if (residual_) {
      throw ArgumentError(operation +
                          ": a pool cannot be fused behind a residual: pool in a step of its own");
    }
    pool_ = Pool{parse_pair(attributes, "pool_size", 1), parse_pair(attributes, "pool_strides", 1)};
    const WindowAxis rows{pool_->size[0], pool_->strides[0], 1, 0, 0};
    const WindowAxis columns{pool_->size[1], pool_->strides[1], 1, 0, 0};
    const auto pooled =
        Window2d{rows, columns, false}.output_size(operation + ": the fused pool", map_height_, map_width_);
    out_height_ = pooled[0];
    out_width_ = pooled[1];
    // Pixels that no pooling window covers are never computed.
    map_height_ = map_rows(out_height_);
    map_width_ = (out_width_ - 1) * pool_->strides[1] + pool_->size[1];
  }
  output_shape_ = Shape{x[0], out_height_, out_width_, out_};
}

std::int64_t Conv2dAlgorithm::map_rows(std::int64_t rows) const {
  return pool_ ? (rows - 1) * pool_->strides[0] + pool_->size[0] : rows;
}

Conv2dAlgorithm::SourceRows Conv2dAlgorithm::source_rows(std::int64_t first, std::int64_t last) const {
  const std::int64_t begin = std::clamp<std::int64_t>(window_.height.begin(first), 0, height_);
  const std::int64_t end = window_.height.begin(last - 1) + window_.height.extent();
  return {begin, std::clamp(end, begin, height_)};
}

const float* Conv2dAlgorithm::channels_last(const float* x, std::int64_t image, SourceRows rows,
                                            float* strip) const {
  const float* pixels = x + image * height_ * width_ * in_;
  if (!channels_first_) return pixels;
  kernels_.transpose(pixels + rows.begin * width_, height_ * width_, in_, (rows.end - rows.begin) * width_,
                     strip, in_);
  return strip - rows.begin * width_ * in_;
}

std::string Conv2dAlgorithm::algorithm() const {
  return (channels_first_ ? "from channels first, " : "") + method() + (residual_ ? ", fused add" : "") +
         last_activation_.fused_text() + (pool_ ? ", fused max_pool2d" : "");
}

std::int64_t Conv2dAlgorithm::flops() const {
  const auto map = window_.output_size("conv2d", height_, width_);
  return 2 * kernel_.shape.count() * map[0] * map[1];
}

void Conv2dAlgorithm::add_residual(const float* residual, float* y, std::int64_t count) const {
  kernels_.binary(kernels::Binary::kAdd, y, 1, residual, 1, y, count);
  if (last_activation_.function != kernels::Activation::kLinear) {
    kernels_.activate(last_activation_.function, last_activation_.alpha, last_activation_.beta, y, y, count);
  }
}

RowwiseConv2d::RowwiseConv2d(const Attributes& attributes, const Shape& x,
                             const kernels::KernelTable& kernels)
    : Conv2dAlgorithm(attributes, x, kernels) {
  if (pool_) {
    const std::int64_t rows_in_scratch = kScratchFloats / (map_width_ * out_);
    block_rows_ = (rows_in_scratch - pool_->size[0]) / pool_->strides[0] + 1;
  } else {
    block_rows_ = (kBlockPixels + map_width_ - 1) / map_width_;
  }
  block_rows_ = std::clamp<std::int64_t>(block_rows_, 1, out_height_);
  strip_rows_ = out_height_;
  if (channels_first_) {
    const std::int64_t step = window_.height.stride * (pool_ ? pool_->strides[0] : 1);
    const std::int64_t fitting = kStripFloats / (width_ * in_ * step) / block_rows_ * block_rows_;
    strip_rows_ = std::clamp(fitting, block_rows_, out_height_);
  }
}

std::int64_t RowwiseConv2d::units(std::span<const ConstTensor> inputs, const Tensor&) const {
  return inputs[0].shape[0] * out_height_;
}

void RowwiseConv2d::run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
                        float* workspace) const {
  for (std::int64_t unit = range.begin, rows; unit < range.end; unit += rows) {
    const std::int64_t image = unit / out_height_;
    const std::int64_t begin = unit % out_height_;
    rows = std::min({strip_rows_, out_height_ - begin, range.end - unit});
    const std::int64_t first = pool_ ? begin * pool_->strides[0] : begin;
    const float* x = channels_last(inputs[0].data, image, source_rows(first, first + map_rows(rows)),
                                   workspace + strip_offset());
    for (std::int64_t done = 0, block; done < rows; done += block) {
      block = std::min(block_rows_, rows - done);
      const std::int64_t place = (unit + done) * out_width_ * out_;
      run_rows(x, residual_ ? inputs[1].data + place : nullptr, begin + done, begin + done + block,
               output.data + place, workspace);
    }
  }
}

void RowwiseConv2d::run_rows(const float* x, const float* residual, std::int64_t begin, std::int64_t end,
                             float* y, float* workspace) const {
  if (pool_) {
    compute_pooled(x, begin, end, y, workspace);
  } else {
    compute_activated(x, begin, end, y, workspace);
  }
  if (residual != nullptr) add_residual(residual, y, (end - begin) * out_width_ * out_);
}

void RowwiseConv2d::compute_activated(const float* x, std::int64_t begin, std::int64_t end, float* y,
                                      float* workspace) const {
  compute(x, begin, end, y, workspace);
  if (!activation_.is_clamp()) {
    kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y,
                      (end - begin) * map_width_ * out_);
  }
}

void RowwiseConv2d::compute_pooled(const float* x, std::int64_t begin, std::int64_t end, float* y,
                                   float* workspace) const {
  const std::int64_t rows = map_rows(end - begin);
  const std::int64_t first = begin * pool_->strides[0];
  float* map = workspace + own_workspace(rows);
  compute_activated(x, first, first + rows, map, workspace);

  kernels::PoolRow row{};
  row.row_pitch = map_width_ * out_;
  row.height = pool_->size[0];
  row.width = pool_->size[1];
  row.stride = pool_->strides[1];
  row.columns = out_width_;
  row.channels = out_;
  row.out_step = out_;
  for (std::int64_t i = 0; i < end - begin; ++i) {
    row.map = map + i * pool_->strides[0] * row.row_pitch;
    row.out = y + i * out_width_ * out_;
    kernels_.max_pool_row(row);
  }
}

std::size_t RowwiseConv2d::strip_offset() const {
  const std::int64_t rows = map_rows(block_rows_);
  const std::int64_t scratch = pool_ ? rows * map_width_ * out_ : 0;
  return (own_workspace(rows) + static_cast<std::size_t>(scratch) + 15) / 16 * 16;
}

std::size_t RowwiseConv2d::workspace_size() const {
  std::int64_t strip = 0;
  if (channels_first_) {
    const std::int64_t rows = (map_rows(strip_rows_) - 1) * window_.height.stride + window_.height.extent();
    strip = std::min(rows, height_) * width_ * in_;
  }
  return strip_offset() + static_cast<std::size_t>(strip);
}

TapGatherer::TapGatherer(const Window2d& window, std::int64_t height, std::int64_t width,
                         std::int64_t channels, std::int64_t columns)
    : window_(window), height_(height), width_(width), channels_(channels), columns_(columns) {
  for (std::int64_t u = 0; u < window_.height.kernel; ++u) {
    for (std::int64_t v = 0; v < columns; ++v) {
      offsets_.push_back((u * window_.height.dilation * width + v * window_.width.dilation) * channels);
    }
  }
}

void TapGatherer::gather(const float* x, std::int64_t row, std::int64_t column, std::int64_t channel,
                         const float* zeros, const float** pointers, std::int64_t step) const {
  const std::int64_t i = window_.height.begin(row);
  const std::int64_t j = window_.width.begin(column);
  const std::int64_t corner = (i * width_ + j) * channels_ + channel;
  if (i >= 0 && j >= 0 && i + window_.height.extent() <= height_ && j + window_.width.extent() <= width_) {
    for (const std::int64_t offset : offsets_) {
      *pointers = x + corner + offset;
      pointers += step;
    }
    return;
  }
  for (std::size_t t = 0; t < offsets_.size(); ++t, pointers += step) {
    const std::int64_t tap_row = i + static_cast<std::int64_t>(t) / columns_ * window_.height.dilation;
    const std::int64_t tap_column = j + static_cast<std::int64_t>(t) % columns_ * window_.width.dilation;
    const bool inside = tap_row >= 0 && tap_row < height_ && tap_column >= 0 && tap_column < width_;
    *pointers = inside ? x + corner + offsets_[t] : zeros;
  }
}

bool planes_fit(const Attributes& attributes) {
  return attributes.integer("channels_first", 0) != 0 && attributes.integer("residual", 0) == 0 &&
         !attributes.has("pool_size") && !attributes.has("pool_strides");
}

std::size_t pointer_floats(std::int64_t pointers) {
  const auto bytes = static_cast<std::size_t>(pointers) * sizeof(float*);
  return (bytes + kAlignment - 1) / kAlignment * (kAlignment / sizeof(float));
}

}  // namespace pyconv
