#include "ops/resample.h"

#include <algorithm>
#include <vector>

#include "base/errors.h"
#include "ops/axes.h"

namespace pyconv {

namespace {

constexpr std::int64_t kOutside = -1;

class Resample final : public Operator {
 public:
  Resample(const Attributes& attributes, const Shape& x)
      : indices_(attributes.integers("indices")), fill_(static_cast<float>(attributes.number("fill", 0.0))) {
    const std::string& operation = attributes.operation();
    const Array& weights = attributes.array("weights");
    const int axis = parse_axis(attributes, x, -1);
    if (weights.shape.rank() != 2 || weights.shape[1] < 1) {
      throw ArgumentError(operation, "weights", "shape (outputs, taps)", to_string(weights.shape));
    }
    outputs_ = weights.shape[0];
    taps_ = weights.shape[1];
    weights_ = weights.values;
    size_ = x[axis];
    inner_ = x.count(axis + 1, x.rank());
    if (indices_.size() != weights_.size()) {
      throw ArgumentError(operation, "indices", std::to_string(weights_.size()) + " of them",
                          std::to_string(indices_.size()));
    }
    for (std::int64_t o = 0; o < outputs_; ++o) {
      const auto begin = indices_.begin() + o * taps_;
      const bool outside = std::all_of(begin, begin + taps_, [](auto i) { return i == kOutside; });
      const bool inside = std::all_of(begin, begin + taps_, [&](auto i) { return i >= 0 && i < size_; });
      if (!outside && !inside) {
        throw ArgumentError(operation, "indices", "places of an axis of " + std::to_string(size_),
                            "others for output " + std::to_string(o));
      }
    }
    output_shape_ = x;
    output_shape_[axis] = outputs_;
  }

  // Everything before the axis is one image after another; a unit is one of their outputs.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return inner_ == 0 ? 0 : output.shape.count() / inner_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t o = unit % outputs_;
      const float* x = inputs[0].data + unit / outputs_ * size_ * inner_;
      float* y = output.data + unit * inner_;
      const std::int64_t* indices = indices_.data() + o * taps_;
      const float* weights = weights_.data() + o * taps_;
      if (indices[0] == kOutside) {
        std::fill_n(y, inner_, fill_);
        continue;
      }
      std::int64_t t = 0;
      if (taps_ == 1) {
        add<1>(x, indices, weights, y, false);
        t = 1;
      } else {
        add<2>(x, indices, weights, y, false);
        t = 2;
      }
      for (; t + 1 < taps_; t += 2) add<2>(x, indices + t, weights + t, y, true);
      if (t < taps_) add<1>(x, indices + t, weights + t, y, true);
    }
  }

  std::string algorithm() const override { return "weighted sum of " + std::to_string(taps_); }
  std::int64_t flops() const override { return (2 * taps_ - 1) * output_shape_.count_per_image(); }

 private:
  // y = the sum of a few taps, or y += it.
  template <int kTaps>
  void add(const float* x, const std::int64_t* indices, const float* weights, float* __restrict y,
           bool more) const {
    const float* a = x + indices[0] * inner_;
    const float* b = x + indices[kTaps - 1] * inner_;
    const float p = weights[0];
    const float q = kTaps == 1 ? 0.0F : weights[kTaps - 1];
    // A weight of 0 leaves its element out: 0 times infinity is no number.
    if (kTaps == 1 || q == 0.0F) {
      for (std::int64_t i = 0; i < inner_; ++i) y[i] = (more ? y[i] : 0.0F) + p * a[i];
    } else if (p == 0.0F) {
      for (std::int64_t i = 0; i < inner_; ++i) y[i] = (more ? y[i] : 0.0F) + q * b[i];
    } else if (more) {
      for (std::int64_t i = 0; i < inner_; ++i) y[i] += p * a[i] + q * b[i];
    } else {
      for (std::int64_t i = 0; i < inner_; ++i) y[i] = p * a[i] + q * b[i];
    }
  }

  std::vector<std::int64_t> indices_;
  std::vector<float> weights_;
  float fill_;
  std::int64_t outputs_ = 0;
  std::int64_t taps_ = 0;
  std::int64_t size_ = 0;
  std::int64_t inner_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_resample(const Attributes& attributes, std::span<const Shape> inputs,
                                        const kernels::KernelTable&) {
  return std::make_unique<Resample>(attributes, inputs[0]);
}

}  // namespace pyconv
