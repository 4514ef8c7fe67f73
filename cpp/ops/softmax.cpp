#include "ops/softmax.h"

#include "base/errors.h"
#include "ops/axes.h"

namespace pyconv {

namespace {

class Softmax final : public Operator {
 public:
  Softmax(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : logarithm_(attributes.operation() == "log_softmax"), kernels_(kernels) {
    axis_ = parse_axis(attributes, x, -1);
    count_ = x[axis_];
    inner_ = x.count(axis_ + 1, x.rank());
    if (count_ < 1) throw ArgumentError(attributes.operation(), "x", "a non-empty axis", to_string(x));
    output_shape_ = x;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count() / count_;  // one row along the axis
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t first = unit / inner_ * count_ * inner_ + unit % inner_;
      const float* x = inputs[0].data + first;
      float* y = output.data + first;
      if (inner_ == 1) {
        kernels_.softmax(x, y, count_, logarithm_);
        continue;
      }
      float* row = workspace;
      float* result = workspace + count_;
      for (std::int64_t i = 0; i < count_; ++i) row[i] = x[i * inner_];
      kernels_.softmax(row, result, count_, logarithm_);
      for (std::int64_t i = 0; i < count_; ++i) y[i * inner_] = result[i];
    }
  }

  std::size_t workspace_size() const override {
    return inner_ == 1 ? 0 : static_cast<std::size_t>(2 * count_);
  }

  std::string algorithm() const override { return "by rows"; }
  // A maximum, a difference, an exponential, a sum and a quotient for each element.
  std::int64_t flops() const override { return 5 * output_shape_.count_per_image(); }

 private:
  bool logarithm_;
  int axis_;
  std::int64_t count_;
  std::int64_t inner_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_softmax(const Attributes& attributes, std::span<const Shape> inputs,
                                       const kernels::KernelTable& kernels) {
  return std::make_unique<Softmax>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
