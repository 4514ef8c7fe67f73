#include "ops/conv2d_transpose.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/packed_matrix.h"
#include "ops/window.h"

namespace pyconv {

namespace {

std::int64_t modulo(std::int64_t a, std::int64_t b) { return (a % b + b) % b; }

// One axis of the output, which falls apart into `stride` phases. The outputs of a phase, every stride-th of
// them, are an ordinary convolution of stride 1 with those taps of the kernel that meet a pixel there.
struct Axis {
  std::int64_t size;    // of x
  std::int64_t output;  // of y
  std::int64_t kernel;
  std::int64_t stride;
  std::int64_t dilation;
  std::int64_t pad;

  // The first output of a phase, and how many outputs it has.
  std::int64_t first(std::int64_t phase) const { return modulo(phase - pad, stride); }
  std::int64_t count(std::int64_t phase) const {
    const std::int64_t begin = first(phase);
    return begin < output ? (output - begin - 1) / stride + 1 : 0;
  }

  struct Tap {
    std::int64_t place;  // in the kernel
    std::int64_t begin;  // the place in x that the phase's first output sees; the next output sees the next
  };
  std::vector<Tap> taps(std::int64_t phase) const {
    std::vector<Tap> found;
    for (std::int64_t u = 0; u < kernel; ++u) {
      const std::int64_t distance = first(phase) + pad - u * dilation;
      if (modulo(distance, stride) == 0) found.push_back({u, distance / stride});
    }
    return found;
  }
};

// Phase by phase, each a matrix product with gathered rows (the indirect convolution of Dukhan 2019): nothing
// is multiplied by the zeros that a transposed convolution is often described with.
class Conv2dTranspose final : public Operator {
 public:
  Conv2dTranspose(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : activation_(ActivationSpec::parse(attributes)), kernels_(kernels) {
    const std::string& operation = attributes.operation();
    const Array& kernel = attributes.array("kernel");
    if (x.rank() != 4)
      throw ArgumentError(operation, "x", "shape (n, height, width, channels)", to_string(x));
    if (kernel.shape.rank() != 4 || kernel.shape.count() == 0) {
      throw ArgumentError(operation, "kernel",
                          "shape (kernel_height, kernel_width, in / groups, out), none of them 0",
                          to_string(kernel.shape));
    }
    in_ = x[3];
    out_ = kernel.shape[3];
    groups_ = attributes.integer("groups", 1);
    if (groups_ < 1 || out_ % groups_ != 0 || kernel.shape[2] * groups_ != in_) {
      throw ArgumentError(operation, "kernel",
                          "in / groups = " + std::to_string(in_) + " / " + std::to_string(groups_) +
                              " input channels and a multiple of " + std::to_string(groups_) + " filters",
                          to_string(kernel.shape));
    }
    const Array* bias = attributes.optional_array("bias");
    if (bias != nullptr && bias->shape != Shape{out_}) {
      throw ArgumentError(operation, "bias", "shape (" + std::to_string(out_) + ",), one for each filter",
                          to_string(bias->shape));
    }
    parse_axes(attributes, kernel.shape, x);
    output_shape_ = Shape{x[0], rows_.output, columns_.output, out_};
    flops_ = 2 * kernel.shape.count() * rows_.size * columns_.size;

    const std::int64_t group_in = in_ / groups_;
    zeros_ = AlignedBuffer(static_cast<std::size_t>(group_in));
    std::fill_n(zeros_.data(), group_in, 0.0F);
    for (std::int64_t r = 0; r < rows_.stride; ++r) row_taps_.push_back(rows_.taps(r));
    for (std::int64_t c = 0; c < columns_.stride; ++c) column_taps_.push_back(columns_.taps(c));
    for (const auto& row_taps : row_taps_) {
      for (const auto& column_taps : column_taps_) pack(kernel, bias, row_taps, column_taps);
    }
    const std::int64_t widest = (columns_.output - 1) / columns_.stride + 1;
    block_columns_ = std::min(widest, kBlockPixels);
    block_rows_ = std::max<std::int64_t>(kBlockPixels / widest, 1);
    row_blocks_ = ((rows_.output - 1) / rows_.stride + block_rows_) / block_rows_;
  }

  // A block of rows of one phase of an image.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape[0] * rows_.stride * row_blocks_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    const auto** pointers = reinterpret_cast<const float**>(workspace);
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t image = unit / (rows_.stride * row_blocks_);
      const std::int64_t phase = unit / row_blocks_ % rows_.stride;
      const std::int64_t begin = unit % row_blocks_ * block_rows_;
      const std::int64_t end = std::min(begin + block_rows_, rows_.count(phase));
      const float* x = inputs[0].data + image * rows_.size * columns_.size * in_;
      float* y = output.data + image * rows_.output * columns_.output * out_;
      for (std::int64_t c = 0; c < columns_.stride; ++c) {
        const std::int64_t columns = columns_.count(c);
        for (std::int64_t first = 0; first < columns; first += block_columns_) {
          const UnitRange block{first, std::min(first + block_columns_, columns)};
          for (std::int64_t g = 0; g < groups_; ++g)
            multiply(x, phase, {begin, end}, c, block, g, y, pointers);
        }
      }
      if (activation_.is_clamp()) continue;
      for (std::int64_t q = begin; q < end; ++q) {
        float* row = y + (rows_.first(phase) + q * rows_.stride) * columns_.output * out_;
        kernels_.activate(activation_.function, activation_.alpha, activation_.beta, row, row,
                          columns_.output * out_);
      }
    }
  }

  std::size_t workspace_size() const override {
    return static_cast<std::size_t>(most_taps_ * block_rows_ * block_columns_) * sizeof(float*) /
           sizeof(float);
  }

  std::string algorithm() const override {
    return "indirect matrix product by phase" + activation_.fused_text();
  }
  std::int64_t flops() const override { return flops_; }

 private:
  // So many pixels share one reading of a panel from the second-level cache.
  static constexpr std::int64_t kBlockPixels = 64;
  // Each has a matrix of its own.
  static constexpr std::int64_t kMostPhases = 65536;

  void parse_axes(const Attributes& attributes, const Shape& kernel, const Shape& x) {
    const auto strides = parse_pair(attributes, "strides", 1);
    const auto dilations = parse_pair(attributes, "dilations", 1);
    const auto pads = attributes.integers("pads", {0, 0, 0, 0});
    const auto extra = attributes.integers("output_padding", {0, 0});
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    const auto sane = [](std::int64_t value) { return value > -kMost && value < kMost; };
    if (pads.size() != 4 || extra.size() != 2 || !std::all_of(pads.begin(), pads.end(), sane) ||
        !std::all_of(extra.begin(), extra.end(), sane)) {
      throw ArgumentError(attributes.operation(), "pads",
                          "[top, left, bottom, right], and output_padding [height, width]", "something else");
    }
    for (std::size_t i = 0; i < 2; ++i) {
      const auto axis = static_cast<int>(i);
      const std::int64_t size = x[axis + 1];
      const std::int64_t whole = (size - 1) * strides[i] + (kernel[axis] - 1) * dilations[i] + 1;
      const std::int64_t output = whole + extra[i] - pads[i] - pads[i + 2];
      if (size < 1 || output < 1) {
        throw ArgumentError(
            attributes.operation(), "pads", "pads that leave something of " + to_string(x),
            std::to_string(pads[i]) + " and " + std::to_string(pads[i + 2]) + " of " + std::to_string(whole));
      }
      // A lone pixel has no neighbour that a stride would keep away.
      const std::int64_t stride = size == 1 ? 1 : strides[i];
      Axis& spatial = i == 0 ? rows_ : columns_;
      spatial = {size, output, kernel[axis], stride, dilations[i], pads[i]};
    }
    if (rows_.stride > kMostPhases || columns_.stride > kMostPhases / rows_.stride / groups_) {
      throw ArgumentError(attributes.operation(), "strides",
                          "a product, with groups, of at most " + std::to_string(kMostPhases),
                          std::to_string(rows_.stride) + ", " + std::to_string(columns_.stride) + " and " +
                              std::to_string(groups_) + " groups");
    }
  }

  // The matrices of a pair of phases, one for each group. A pair without taps, which only a stride larger
  // than the kernel has, gets one that is all zeros: its outputs are the bias.
  void pack(const Array& kernel, const Array* bias, const std::vector<Axis::Tap>& row_taps,
            const std::vector<Axis::Tap>& column_taps) {
    const std::int64_t group_in = in_ / groups_;
    const std::int64_t group_out = out_ / groups_;
    const auto taps = static_cast<std::int64_t>(row_taps.size() * column_taps.size());
    most_taps_ = std::max(most_taps_, taps);
    const auto size = static_cast<std::size_t>(std::max<std::int64_t>(taps, 1) * group_in * out_);
    std::vector<float> values(size, 0.0F);
    auto to = values.begin();
    for (const Axis::Tap& row : row_taps) {
      for (const Axis::Tap& column : column_taps) {
        const auto from =
            kernel.values.begin() + (row.place * kernel.shape[1] + column.place) * group_in * out_;
        to = std::copy_n(from, group_in * out_, to);
      }
    }
    for (std::int64_t g = 0; g < groups_; ++g) {
      matrices_.emplace_back(values.data() + g * group_out, 1, static_cast<std::int64_t>(size) / out_,
                             group_out, out_, bias == nullptr ? nullptr : bias->values.data() + g * group_out,
                             kernels_);
    }
  }

  // One group of the outputs `rows` and `columns` of a pair of phases.
  void multiply(const float* x, std::int64_t row_phase, UnitRange rows, std::int64_t column_phase,
                UnitRange columns, std::int64_t group, float* y, const float** pointers) const {
    const auto& row_taps = row_taps_[static_cast<std::size_t>(row_phase)];
    const auto& column_taps = column_taps_[static_cast<std::size_t>(column_phase)];
    const PackedMatrix& matrix =
        matrices_[static_cast<std::size_t>((row_phase * columns_.stride + column_phase) * groups_ + group)];
    const std::int64_t group_in = in_ / groups_;
    const std::int64_t group_out = out_ / groups_;
    kernels::MatrixTile tile{};
    tile.taps = std::max<std::int64_t>(static_cast<std::int64_t>(row_taps.size() * column_taps.size()), 1);
    tile.depth = group_in;
    tile.out_pitch = columns_.stride * out_;
    tile.lowest = activation_.lowest();
    tile.highest = activation_.highest();
    const std::int64_t width = columns.end - columns.begin;
    for (std::int64_t q = rows.begin; q < rows.end; ++q) {
      for (std::int64_t done = 0, count; done < width; done += count) {
        count = balanced_tile(done, width, matrix.max_rows());
        const float** to = pointers + ((q - rows.begin) * width + done) * tile.taps;
        if (row_taps.empty() || column_taps.empty()) std::fill_n(to, count, zeros_.data());
        for (const Axis::Tap& row : row_taps) {
          const std::int64_t i = row.begin + q;
          for (const Axis::Tap& column : column_taps) {
            for (std::int64_t r = 0; r < count; ++r) {
              const std::int64_t j = column.begin + columns.begin + done + r;
              const bool inside = i >= 0 && i < rows_.size && j >= 0 && j < columns_.size;
              *to++ = inside ? x + (i * columns_.size + j) * in_ + group * group_in : zeros_.data();
            }
          }
        }
      }
    }
    for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
      for (std::int64_t q = rows.begin; q < rows.end; ++q) {
        const std::int64_t row = rows_.first(row_phase) + q * rows_.stride;
        for (std::int64_t done = 0, count; done < width; done += count) {
          count = balanced_tile(done, width, matrix.max_rows());
          const std::int64_t column = columns_.first(column_phase) + (columns.begin + done) * columns_.stride;
          tile.rows = pointers + ((q - rows.begin) * width + done) * tile.taps;
          tile.out =
              y + (row * columns_.output + column) * out_ + group * group_out + matrix.first_column(panel);
          matrix.multiply(tile, count, panel);
        }
      }
    }
  }

  Axis rows_{};
  Axis columns_{};
  std::int64_t in_ = 0;
  std::int64_t out_ = 0;
  std::int64_t groups_ = 1;
  std::int64_t flops_ = 0;
  std::int64_t most_taps_ = 1;  // of any pair of phases
  std::int64_t block_rows_ = 1;
  std::int64_t block_columns_ = 1;
  std::int64_t row_blocks_ = 1;  // of a phase, the longest one's
  ActivationSpec activation_;
  AlignedBuffer zeros_;
  std::vector<std::vector<Axis::Tap>> row_taps_;     // by phase
  std::vector<std::vector<Axis::Tap>> column_taps_;  // by phase
  std::vector<PackedMatrix> matrices_;               // by row phase, column phase and group
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_conv2d_transpose(const Attributes& attributes, std::span<const Shape> inputs,
                                                const kernels::KernelTable& kernels) {
  return std::make_unique<Conv2dTranspose>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
