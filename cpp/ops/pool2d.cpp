#include "ops/pool2d.h"

#include <algorithm>
#include <limits>

#include "base/errors.h"
#include "ops/window.h"

namespace pyconv {

namespace {

enum class Reduction { kMax, kAverage };

void check_rank(const Attributes& attributes, const Shape& x) {
  if (x.rank() != 4) {
    throw ArgumentError(attributes.operation(), "x", "shape (n, height, width, channels)", to_string(x));
  }
}

class Pool2d final : public Operator {
 public:
  Pool2d(const Attributes& attributes, const Shape& x, Reduction reduction,
         const kernels::KernelTable& kernels)
      : reduction_(reduction), height_(x[1]), width_(x[2]), channels_(x[3]), kernels_(kernels) {
    const auto size = parse_pair(attributes, "kernel_size", 1);
    window_ = Window2d::parse(attributes, size[0], size[1], true);
    if (reduction == Reduction::kAverage) {
      include_pad_ = attributes.integer("count_include_pad", 0) != 0;
    }
    const auto out = window_.output_size(attributes.operation(), height_, width_);
    out_height_ = out[0];
    out_width_ = out[1];
    output_shape_ = Shape{x[0], out_height_, out_width_, channels_};
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape[0] * out_height_;  // a row of the output
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    const auto** taps = reinterpret_cast<const float**>(workspace);
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x = inputs[0].data + unit / out_height_ * height_ * width_ * channels_;
      const std::int64_t row = unit % out_height_;
      float* y = output.data + unit * out_width_ * channels_;
      const UnitRange inside = windows_inside(row);
      for (std::int64_t column = 0; column < inside.begin; ++column) {
        pool(x, row, column, y + column * channels_, taps);
      }
      if (inside.begin < inside.end) pool_inside(x, row, inside, y + inside.begin * channels_);
      for (std::int64_t column = inside.end; column < out_width_; ++column) {
        pool(x, row, column, y + column * channels_, taps);
      }
    }
  }

  std::size_t workspace_size() const override {
    const std::int64_t taps =
        window_.height.most_taps_inside(height_) * window_.width.most_taps_inside(width_);
    return static_cast<std::size_t>(taps) * sizeof(float*) / sizeof(float);
  }

  std::int64_t flops() const override {
    // In double precision: windows may be far larger than the map, and 64 bits too few.
    const double taps =
        static_cast<double>(window_.height.kernel) * static_cast<double>(window_.width.kernel);
    const double outputs = static_cast<double>(out_height_ * out_width_ * channels_);
    return static_cast<std::int64_t>(std::min(taps * outputs, 9e18));
  }

 private:
  // The columns of a row of outputs whose windows lie wholly inside the map; they are done in one go.
  UnitRange windows_inside(std::int64_t row) const {
    const std::int64_t i = window_.height.begin(row);
    const bool dense = window_.height.dilation == 1 && window_.width.dilation == 1;
    if (!dense || i < 0 || i + window_.height.kernel > height_) return {0, 0};
    const auto [begin, end] = window_.width.inside(width_, out_width_);
    return {begin, end};
  }

  void pool_inside(const float* x, std::int64_t row, UnitRange columns, float* y) const {
    kernels::PoolRow windows{};
    windows.map = x + (window_.height.begin(row) * width_ + window_.width.begin(columns.begin)) * channels_;
    windows.row_pitch = width_ * channels_;
    windows.height = window_.height.kernel;
    windows.width = window_.width.kernel;
    windows.stride = window_.width.stride;
    windows.columns = columns.end - columns.begin;
    windows.channels = windows.out_step = channels_;
    windows.scale = 1.0F / static_cast<float>(window_.height.kernel * window_.width.kernel);
    windows.out = y;
    (reduction_ == Reduction::kMax ? kernels_.max_pool_row : kernels_.average_pool_row)(windows);
  }

  void pool(const float* x, std::int64_t row, std::int64_t column, float* y, const float** taps) const {
    std::int64_t count = 0;
    const auto [top, bottom] = window_.height.taps_inside(row, height_);
    const auto [left, right] = window_.width.taps_inside(column, width_);
    for (std::int64_t u = top; u < bottom; ++u) {
      const std::int64_t i = window_.height.begin(row) + u * window_.height.dilation;
      for (std::int64_t v = left; v < right; ++v) {
        const std::int64_t j = window_.width.begin(column) + v * window_.width.dilation;
        taps[count++] = x + (i * width_ + j) * channels_;
      }
    }
    if (reduction_ == Reduction::kMax) {
      if (count == 0) {
        std::fill_n(y, channels_, -std::numeric_limits<float>::infinity());
      } else {
        kernels_.max_pool(taps, count, channels_, y);
      }
    } else {
      if (count == 0) {
        std::fill_n(y, channels_, 0.0F);
        return;
      }
      const std::int64_t divisor = include_pad_ ? padded_taps(window_.height, row, height_) *
                                                      padded_taps(window_.width, column, width_)
                                                : count;
      kernels_.average_pool(taps, count, channels_, 1.0F / static_cast<float>(divisor), y);
    }
  }

  // Taps within the padded axis: with ceil_mode a window may hang over its end.
  static std::int64_t padded_taps(const WindowAxis& axis, std::int64_t o, std::int64_t size) {
    const std::int64_t room = size + axis.pad_end - axis.begin(o);
    return std::min(axis.kernel, (room + axis.dilation - 1) / axis.dilation);
  }

  Reduction reduction_;
  Window2d window_;
  bool include_pad_ = false;
  std::int64_t height_, width_, channels_;
  std::int64_t out_height_, out_width_;
  const kernels::KernelTable& kernels_;
};

// Row by row, and then over the rows: a sum of many terms stays accurate, and the list of taps short.
class GlobalPool2d final : public Operator {
 public:
  GlobalPool2d(const Attributes& attributes, const Shape& x, Reduction reduction,
               const kernels::KernelTable& kernels)
      : reduction_(reduction), height_(x[1]), width_(x[2]), channels_(x[3]), kernels_(kernels) {
    if (height_ < 1 || width_ < 1) {
      throw ArgumentError(attributes.operation(), "x", "a map of at least one pixel", to_string(x));
    }
    output_shape_ = Shape{x[0], 1, 1, channels_};
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape[0];
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    const auto** taps = reinterpret_cast<const float**>(workspace);
    float* rows = workspace + pointer_floats();
    for (std::int64_t image = range.begin; image < range.end; ++image) {
      const float* x = inputs[0].data + image * height_ * width_ * channels_;
      for (std::int64_t row = 0; row < height_; ++row) {
        pool(x + row * width_ * channels_, width_, 1.0F, rows + row * channels_, taps);
      }
      pool(rows, height_, 1.0F / static_cast<float>(height_ * width_), output.data + image * channels_, taps);
    }
  }

  std::size_t workspace_size() const override {
    return pointer_floats() + static_cast<std::size_t>(height_ * channels_);
  }

  std::string algorithm() const override { return "rows first"; }
  std::int64_t flops() const override { return height_ * width_ * channels_; }

 private:
  void pool(const float* x, std::int64_t count, float scale, float* y, const float** taps) const {
    for (std::int64_t t = 0; t < count; ++t) taps[t] = x + t * channels_;
    if (reduction_ == Reduction::kMax) {
      kernels_.max_pool(taps, count, channels_, y);
    } else {
      kernels_.average_pool(taps, count, channels_, scale, y);
    }
  }

  std::size_t pointer_floats() const {
    return static_cast<std::size_t>(std::max(height_, width_)) * sizeof(float*) / sizeof(float);
  }

  Reduction reduction_;
  std::int64_t height_, width_, channels_;
  const kernels::KernelTable& kernels_;
};

template <class T>
std::unique_ptr<Operator> make(const Attributes& attributes, std::span<const Shape> inputs,
                               Reduction reduction, const kernels::KernelTable& kernels) {
  check_rank(attributes, inputs[0]);
  return std::make_unique<T>(attributes, inputs[0], reduction, kernels);
}

}  // namespace

std::unique_ptr<Operator> make_max_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                          const kernels::KernelTable& kernels) {
  return make<Pool2d>(attributes, inputs, Reduction::kMax, kernels);
}

std::unique_ptr<Operator> make_average_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                              const kernels::KernelTable& kernels) {
  return make<Pool2d>(attributes, inputs, Reduction::kAverage, kernels);
}

std::unique_ptr<Operator> make_global_max_pool2d(const Attributes& attributes, std::span<const Shape> inputs,
                                                 const kernels::KernelTable& kernels) {
  return make<GlobalPool2d>(attributes, inputs, Reduction::kMax, kernels);
}

std::unique_ptr<Operator> make_global_average_pool2d(const Attributes& attributes,
                                                     std::span<const Shape> inputs,
                                                     const kernels::KernelTable& kernels) {
  return make<GlobalPool2d>(attributes, inputs, Reduction::kAverage, kernels);
}

}  // namespace pyconv
