#include "ops/reduce.h"

#include <algorithm>
#include <limits>

#include "base/errors.h"
#include "ops/axes.h"

namespace pyconv {

namespace {

// Any function over any axes, element by element.
class Reduce final : public Operator {
 public:
  Reduce(const Attributes& attributes, const Shape& x) : function_(attributes.text("function", "mean")) {
    if (function_ != "mean" && function_ != "sum" && function_ != "max" && function_ != "min") {
      throw ArgumentError(attributes.operation(), "function", "mean, sum, max or min", "'" + function_ + "'");
    }
    const bool keep = attributes.integer("keepdims", 1) != 0;
    const auto axes = parse_axes(attributes, x);
    kept_.push_back(0);
    reduced_.push_back(0);
    std::vector<std::int64_t> sizes;
    std::int64_t stride = 1;
    std::vector<std::int64_t> strides(static_cast<std::size_t>(x.rank()));
    for (int axis = x.rank() - 1; axis >= 0; --axis) {
      strides[static_cast<std::size_t>(axis)] = stride;
      stride *= x[axis];
    }
    for (int axis = 0; axis < x.rank(); ++axis) {
      const bool reduce = std::find(axes.begin(), axes.end(), axis) != axes.end();
      if (!reduce || keep) sizes.push_back(reduce ? 1 : x[axis]);
      if (axis == 0 && x.has_batch()) continue;
      multiply(reduce ? reduced_ : kept_, x[axis], strides[static_cast<std::size_t>(axis)]);
    }
    image_floats_ = x.count_per_image();
    output_shape_ = Shape{std::span<const std::int64_t>(sizes)};
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const auto kept = static_cast<std::int64_t>(kept_.size());
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x =
          inputs[0].data + unit / kept * image_floats_ + kept_[static_cast<std::size_t>(unit % kept)];
      output.data[unit] = reduced(x);
    }
  }

  std::string algorithm() const override { return function_; }
  std::int64_t flops() const override { return image_floats_; }

 private:
  // Every offset so far, once for each index along a further axis.
  static void multiply(std::vector<std::int64_t>& offsets, std::int64_t size, std::int64_t stride) {
    std::vector<std::int64_t> all;
    all.reserve(offsets.size() * static_cast<std::size_t>(size));
    for (const std::int64_t offset : offsets) {
      for (std::int64_t i = 0; i < size; ++i) all.push_back(offset + i * stride);
    }
    offsets = std::move(all);
  }

  float reduced(const float* x) const {
    if (function_ == "mean" || function_ == "sum") {
      double sum = 0.0;
      for (const std::int64_t offset : reduced_) sum += static_cast<double>(x[offset]);
      if (function_ == "mean") sum /= static_cast<double>(reduced_.size());
      return static_cast<float>(sum);
    }
    const bool max = function_ == "max";
    float result = max ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
    for (const std::int64_t offset : reduced_) {
      const float value = x[offset];
      if (value != value) return value;  // NaN
      result = max ? std::max(result, value) : std::min(result, value);
    }
    return result;
  }

  std::string function_;
  std::vector<std::int64_t> kept_;     // where each output of an image begins in x
  std::vector<std::int64_t> reduced_;  // the elements that go into it, from there
  std::int64_t image_floats_;
};

// Sums and means over axes that lie side by side: x is (outer, count, inner), y (outer, inner).
class AdjacentSum final : public Operator {
 public:
  AdjacentSum(const Attributes& attributes, const Shape& x, const Shape& output, int first, int last,
              const kernels::KernelTable& kernels)
      : count_(x.count(first, last + 1)),
        inner_(x.count(last + 1, x.rank())),
        factor_(attributes.text("function", "mean") == "mean" ? 1.0 / static_cast<double>(count_) : 1.0),
        flops_(x.count_per_image()),
        kernels_(kernels) {
    output_shape_ = output;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count() / inner_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    if (inner_ == 1) {
      kernels_.sum_rows(inputs[0].data + range.begin * count_, range.end - range.begin, count_, factor_,
                        output.data + range.begin);
      return;
    }
    auto* totals = reinterpret_cast<double*>(workspace);
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x = inputs[0].data + unit * count_ * inner_;
      float* y = output.data + unit * inner_;
      // A few rows in float32, then all of them together in double precision.
      std::fill_n(totals, inner_, 0.0);
      for (std::int64_t begin = 0; begin < count_; begin += kRows) {
        std::fill_n(y, inner_, 0.0F);
        const std::int64_t end = std::min(begin + kRows, count_);
        for (std::int64_t row = begin; row < end; ++row) {
          for (std::int64_t i = 0; i < inner_; ++i) y[i] += x[row * inner_ + i];
        }
        for (std::int64_t i = 0; i < inner_; ++i) totals[i] += static_cast<double>(y[i]);
      }
      for (std::int64_t i = 0; i < inner_; ++i) y[i] = static_cast<float>(totals[i] * factor_);
    }
  }

  std::size_t workspace_size() const override {
    return inner_ == 1 ? 0 : static_cast<std::size_t>(inner_) * sizeof(double) / sizeof(float);
  }

  std::string algorithm() const override { return factor_ == 1.0 ? "sum" : "mean"; }
  std::int64_t flops() const override { return flops_; }

 private:
  static constexpr std::int64_t kRows = 64;

  std::int64_t count_;
  std::int64_t inner_;
  double factor_;
  std::int64_t flops_;
  const kernels::KernelTable& kernels_;
};

// Which of two numbers a maximum or a minimum keeps; a NaN, once there is one.
template <bool kMax>
float kept_of(float best, float x) {
  const bool beats = kMax ? x > best : x < best;
  return (beats | (x != x)) ? x : best;
}

// Maxima and minima over axes that lie side by side: x is (outer, count, inner), y (outer, inner).
class AdjacentExtreme final : public Operator {
 public:
  AdjacentExtreme(const Attributes& attributes, const Shape& x, const Shape& output, int first, int last,
                  const kernels::KernelTable& kernels)
      : max_(attributes.text("function", "mean") == "max"),
        count_(x.count(first, last + 1)),
        inner_(x.count(last + 1, x.rank())),
        flops_(x.count_per_image()),
        kernels_(kernels) {
    output_shape_ = output;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count() / inner_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    if (inner_ == 1) {
      (max_ ? kernels_.max_rows : kernels_.min_rows)(
          inputs[0].data + range.begin * count_, range.end - range.begin, count_, output.data + range.begin);
      return;
    }
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x = inputs[0].data + unit * count_ * inner_;
      float* y = output.data + unit * inner_;
      max_ ? reduce<true>(x, y) : reduce<false>(x, y);
    }
  }

  std::string algorithm() const override { return max_ ? "max" : "min"; }
  std::int64_t flops() const override { return flops_; }

 private:
  template <bool kMax>
  void reduce(const float* x, float* y) const {
    std::copy_n(x, inner_, y);
    for (std::int64_t row = 1; row < count_; ++row) {
      for (std::int64_t i = 0; i < inner_; ++i) y[i] = kept_of<kMax>(y[i], x[row * inner_ + i]);
    }
  }

  bool max_;
  std::int64_t count_;
  std::int64_t inner_;
  std::int64_t flops_;
  const kernels::KernelTable& kernels_;
};

// Whether axes lie side by side, and there are elements to reduce.
bool are_adjacent(const Shape& x, const std::vector<int>& axes) {
  return !axes.empty() && axes.back() - axes.front() + 1 == static_cast<int>(axes.size()) &&
         x.count(axes.front(), x.rank()) > 0;
}

}  // namespace

std::unique_ptr<Operator> make_reduce(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels) {
  const Shape& x = inputs[0];
  auto general = std::make_unique<Reduce>(attributes, x);
  const auto axes = parse_axes(attributes, x);
  if (!are_adjacent(x, axes)) return general;
  const Shape& output = general->output_shape();
  const std::string function = attributes.text("function", "mean");
  if (function == "mean" || function == "sum") {
    return std::make_unique<AdjacentSum>(attributes, x, output, axes.front(), axes.back(), kernels);
  }
  return std::make_unique<AdjacentExtreme>(attributes, x, output, axes.front(), axes.back(), kernels);
}

}  // namespace pyconv
