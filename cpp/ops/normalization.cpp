#include "ops/normalization.h"

#include <algorithm>
#include <vector>

#include "base/errors.h"
#include "ops/axes.h"

namespace pyconv {

namespace {

class LayerNormalization final : public Operator {
 public:
  LayerNormalization(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : epsilon_(static_cast<float>(attributes.number("epsilon", 1e-5))), kernels_(kernels) {
    const int axis = parse_axis(attributes, x, -1);
    row_ = x.count(axis, x.rank());
    Shape expected;
    std::vector<std::int64_t> sizes(x.sizes().begin() + axis, x.sizes().end());
    expected = Shape{std::span<const std::int64_t>(sizes)};
    scale_ = parameter(attributes, "scale", expected, 1.0F);
    bias_ = parameter(attributes, "bias", expected, 0.0F);
    output_shape_ = x;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return row_ == 0 ? 0 : output.shape.count() / row_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const std::int64_t first = range.begin * row_;
    kernels_.normalize_rows(inputs[0].data + first, range.end - range.begin, row_, epsilon_, scale_.data(),
                            bias_.data(), output.data + first);
  }

  std::string algorithm() const override { return "by rows"; }
  // The mean, the variance, and what is made of them.
  std::int64_t flops() const override { return 8 * output_shape_.count_per_image(); }

 private:
  std::vector<float> parameter(const Attributes& attributes, const std::string& name, const Shape& shape,
                               float otherwise) const {
    const Array* given = attributes.optional_array(name);
    if (given == nullptr) return std::vector<float>(static_cast<std::size_t>(row_), otherwise);
    if (given->shape != shape) {
      throw ArgumentError(attributes.operation(), name, "shape " + to_string(shape), to_string(given->shape));
    }
    return given->values;
  }

  float epsilon_;
  std::int64_t row_;
  std::vector<float> scale_;
  std::vector<float> bias_;
  const kernels::KernelTable& kernels_;
};

class LocalResponseNormalization final : public Operator {
 public:
  LocalResponseNormalization(const Attributes& attributes, const Shape& x,
                             const kernels::KernelTable& kernels)
      : size_(attributes.integer("size", 5)),
        alpha_(static_cast<float>(attributes.number("alpha", 1e-4))),
        beta_(static_cast<float>(attributes.number("beta", 0.75))),
        bias_(static_cast<float>(attributes.number("bias", 1.0))),
        kernels_(kernels) {
    if (size_ < 1 || size_ > (std::int64_t{1} << 30)) {
      throw ArgumentError(attributes.operation(), "size", "at least 1", std::to_string(size_));
    }
    if (x.rank() < 2) throw ArgumentError(attributes.operation(), "x", "shape (..., channels)", to_string(x));
    channels_ = x[x.rank() - 1];
    output_shape_ = x;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return channels_ == 0 ? 0 : output.shape.count() / channels_;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    float* squares = workspace;
    float* sums = workspace + channels_;
    const std::int64_t before = std::min((size_ - 1) / 2, channels_ - 1);
    const std::int64_t after = std::min(size_ / 2, channels_ - 1);
    const float share = alpha_ / static_cast<float>(size_);
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x = inputs[0].data + unit * channels_;
      float* y = output.data + unit * channels_;
      for (std::int64_t c = 0; c < channels_; ++c) squares[c] = x[c] * x[c];
      std::fill_n(sums, channels_, 0.0F);
      for (std::int64_t k = -before; k <= after; ++k) {
        const std::int64_t begin = std::max<std::int64_t>(-k, 0);
        const std::int64_t end = std::min(channels_ - k, channels_);
        for (std::int64_t c = begin; c < end; ++c) sums[c] += squares[c + k];
      }
      for (std::int64_t c = 0; c < channels_; ++c) sums[c] = bias_ + share * sums[c];
      // base ** -beta = exp(-beta · log(base))
      kernels_.activate(kernels::Activation::kLog, 0.0F, 0.0F, sums, sums, channels_);
      for (std::int64_t c = 0; c < channels_; ++c) sums[c] *= -beta_;
      kernels_.activate(kernels::Activation::kExp, 0.0F, 0.0F, sums, sums, channels_);
      for (std::int64_t c = 0; c < channels_; ++c) y[c] = x[c] * sums[c];
    }
  }

  std::size_t workspace_size() const override { return static_cast<std::size_t>(2 * channels_); }
  std::string algorithm() const override { return "by pixels"; }
  // A square, a sum of `size` of them, and five more.
  std::int64_t flops() const override { return (size_ + 6) * output_shape_.count_per_image(); }

 private:
  std::int64_t size_;
  float alpha_;
  float beta_;
  float bias_;
  std::int64_t channels_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_layer_normalization(const Attributes& attributes,
                                                   std::span<const Shape> inputs,
                                                   const kernels::KernelTable& kernels) {
  return std::make_unique<LayerNormalization>(attributes, inputs[0], kernels);
}

std::unique_ptr<Operator> make_local_response_normalization(const Attributes& attributes,
                                                            std::span<const Shape> inputs,
                                                            const kernels::KernelTable& kernels) {
  return std::make_unique<LocalResponseNormalization>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
