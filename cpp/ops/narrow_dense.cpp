#include "ops/narrow_dense.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/dense.h"
#include "ops/narrow_matrix.h"

namespace pyconv {

namespace {

// 255 * 128 * kMostIntegerTerms fits into an int32.
constexpr std::int64_t kMostIntegerTerms = 65'000;

Storage parse_storage(const Attributes& attributes) {
  const std::string name = attributes.text("storage", "float32");
  if (name == "bfloat16") return Storage::kBfloat16;
  if (name == "int8") return Storage::kInt8;
  throw ArgumentError(attributes.operation(), "storage", "float32, bfloat16 or int8", "'" + name + "'");
}

class NarrowDense final : public Operator {
 public:
  NarrowDense(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : activation_(ActivationSpec::parse(attributes)), kernels_(kernels) {
    const DenseWeights dense = parse_dense(attributes, x);
    in_ = dense.in;
    out_ = dense.out;
    storage_ = parse_storage(attributes);
    const std::string& operation = attributes.operation();
    const std::vector<float> scales = parse_scales(attributes);
    if (attributes.has("x_scale")) {
      x_scale_ = static_cast<float>(attributes.number("x_scale", 1.0));
      x_below_ = attributes.integer("x_below", 0);
      if (storage_ != Storage::kInt8) {
        throw ArgumentError(operation, "x_scale", "storage int8 with it", "bfloat16");
      }
      if (!(*x_scale_ > 0.0F) || std::isinf(*x_scale_)) {
        throw ArgumentError(operation, "x_scale", "a number above 0", std::to_string(*x_scale_));
      }
      if (x_below_ < 0 || x_below_ > 255) {
        throw ArgumentError(operation, "x_below", "0 to 255", std::to_string(x_below_));
      }
      if (in_ > kMostIntegerTerms) {
        throw ArgumentError(operation, "x_scale", "at most " + std::to_string(kMostIntegerTerms) + " inputs",
                            std::to_string(in_));
      }
    }
    matrix_.emplace(dense.weights.values.data(), in_, out_, dense.bias, storage_, scales,
                    x_scale_.has_value(), x_scale_.value_or(1.0F), kernels);
    output_shape_ = x;
    output_shape_[x.rank() - 1] = out_;
  }

  // A unit is one panel of one block of rows; those of a block follow each other.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return (rows_of(output) + kBlockRows - 1) / kBlockRows * matrix_->panels();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float* workspace) const override {
    auto* const steps = reinterpret_cast<std::int16_t*>(workspace);
    kernels::NarrowProduct product{};
    product.out_pitch = out_;
    product.lowest = activation_.lowest();
    product.highest = activation_.highest();
    std::int64_t ready = -1;  // the block whose rows are in the workspace
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t block = unit / matrix_->panels(), panel = unit % matrix_->panels();
      const std::int64_t begin = block * kBlockRows;
      product.rows = std::min(kBlockRows, rows_of(output) - begin);
      const float* const x = inputs[0].data + begin * in_;
      product.x = x;
      product.x_pitch = in_;
      if (x_scale_) {
        if (ready != block) quantize_rows(x, product.rows, steps);
        ready = block;
        product.x = steps;
        product.x_pitch = step_pitch();
      }
      product.out = output.data + begin * out_ + matrix_->first_column(panel);
      matrix_->multiply(product, panel);
      if (activation_.is_clamp()) continue;
      for (std::int64_t r = 0; r < product.rows; ++r) {
        float* const y = product.out + r * out_;
        kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y,
                          matrix_->columns(panel));
      }
    }
  }

  std::size_t workspace_size() const override {
    return x_scale_ ? static_cast<std::size_t>(kBlockRows * step_pitch() / 2) : 0;
  }

  std::string algorithm() const override {
    const std::string how = x_scale_                         ? "integer product, int8 weights"
                            : storage_ == Storage::kBfloat16 ? "matrix product, bfloat16 weights"
                                                             : "matrix product, int8 weights";
    return how + activation_.fused_text();
  }
  std::int64_t flops() const override { return 2 * output_shape_.count_per_image() * in_; }

 private:
  // So many rows share one reading of a panel from the second-level cache.
  static constexpr std::int64_t kBlockRows = 32;

  std::int64_t rows_of(const Tensor& output) const { return output.shape.count() / out_; }
  // Rows of int16 in the workspace begin on cache lines.
  std::int64_t step_pitch() const { return (in_ + 31) / 32 * 32; }

  std::vector<float> parse_scales(const Attributes& attributes) const {
    const Array* scales = attributes.optional_array("weight_scales");
    if (scales == nullptr) return {};
    if (storage_ != Storage::kInt8 || scales->shape != Shape{out_}) {
      throw ArgumentError(attributes.operation(), "weight_scales",
                          "shape (" + std::to_string(out_) + ",) and storage int8", to_string(scales->shape));
    }
    for (const float scale : scales->values) {
      if (scale > 0.0F && !std::isinf(scale)) continue;
      throw ArgumentError(attributes.operation(), "weight_scales", "numbers above 0", std::to_string(scale));
    }
    return scales->values;
  }

  void quantize_rows(const float* x, std::int64_t rows, std::int16_t* steps) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::int16_t* const row = steps + r * step_pitch();
      kernels_.quantize(x + r * in_, *x_scale_, static_cast<float>(x_below_), row, in_);
      std::fill(row + in_, row + step_pitch(), std::int16_t{0});
    }
  }

  std::int64_t in_ = 0;
  std::int64_t out_ = 0;
  Storage storage_ = Storage::kInt8;
  std::optional<float> x_scale_;
  std::int64_t x_below_ = 0;
  ActivationSpec activation_;
  std::optional<NarrowMatrix> matrix_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_narrow_dense(const Attributes& attributes, const Shape& x,
                                            const kernels::KernelTable& kernels) {
  return std::make_unique<NarrowDense>(attributes, x, kernels);
}

}  // namespace pyconv
