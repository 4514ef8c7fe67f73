#include "ops/dense.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/narrow_dense.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

class Dense final : public Operator {
 public:
  Dense(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : activation_(ActivationSpec::parse(attributes)), kernels_(kernels) {
    const DenseWeights dense = parse_dense(attributes, x);
    in_ = dense.in;
    out_ = dense.out;
    matrix_.emplace(dense.weights.values.data(), 1, in_, out_, out_, dense.bias.data(), kernels);
    output_shape_ = x;
    output_shape_[x.rank() - 1] = out_;
  }

  // A unit is one panel of one block of rows; those of a block follow each other.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return (rows_of(output) + kBlockRows - 1) / kBlockRows * matrix_->panels();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const std::int64_t panels = matrix_->panels();
    kernels::MatrixBlock block{};
    block.x_pitch = in_;
    block.out_pitch = out_;
    block.finish = true;
    block.lowest = activation_.lowest();
    block.highest = activation_.highest();
    for (std::int64_t unit = range.begin, next; unit < range.end; unit = next) {
      const std::int64_t first = unit / panels * kBlockRows;
      const std::int64_t panel = unit % panels;
      next = std::min(unit - panel + panels, range.end);
      block.rows = std::min(kBlockRows, rows_of(output) - first);
      block.x = inputs[0].data + first * in_;
      float* y = output.data + first * out_ + matrix_->first_column(panel);
      block.out = y;
      const std::int64_t end = panel + next - unit;
      matrix_->multiply(block, panel, end);
      if (!activation_.is_clamp()) {
        const std::int64_t columns =
            matrix_->first_column(end - 1) + matrix_->columns(end - 1) - matrix_->first_column(panel);
        for (std::int64_t row = 0; row < block.rows; ++row, y += out_) {
          kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y, columns);
        }
      }
    }
  }

  std::string algorithm() const override { return "matrix product" + activation_.fused_text(); }
  std::int64_t flops() const override { return 2 * output_shape_.count_per_image() * in_; }

 private:
  // So many rows share one reading of a panel from the second-level cache.
  static constexpr std::int64_t kBlockRows = 64;

  std::int64_t rows_of(const Tensor& output) const { return output.shape.count() / out_; }

  std::int64_t in_ = 0;
  std::int64_t out_ = 0;
  ActivationSpec activation_;
  std::optional<PackedMatrix> matrix_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

DenseWeights parse_dense(const Attributes& attributes, const Shape& x) {
  const std::string& operation = attributes.operation();
  const Array& weights = attributes.array("weights");
  if (x.rank() < 1) throw ArgumentError(operation, "x", "shape (..., in)", to_string(x));
  const std::int64_t in = x[x.rank() - 1];
  if (weights.shape.rank() != 2 || weights.shape[0] != in || weights.shape[1] < 1) {
    throw ArgumentError(operation, "weights", "shape (" + std::to_string(in) + ", out) for x " + to_string(x),
                        to_string(weights.shape));
  }
  const std::int64_t out = weights.shape[1];
  const Array* bias = attributes.optional_array("bias");
  if (bias != nullptr && bias->shape != Shape{out}) {
    throw ArgumentError(operation, "bias", "shape (" + std::to_string(out) + ",)", to_string(bias->shape));
  }
  const std::vector<float> zeros(static_cast<std::size_t>(bias == nullptr ? out : 0), 0.0F);
  return {weights, bias == nullptr ? zeros : bias->values, in, out};
}

std::unique_ptr<Operator> make_dense(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable& kernels) {
  if (attributes.text("storage", "float32") != "float32") {
    return make_narrow_dense(attributes, inputs[0], kernels);
  }
  return std::make_unique<Dense>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
