#include "ops/dense.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

class Dense final : public Operator {
 public:
  Dense(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : activation_(ActivationSpec::parse(attributes)), kernels_(kernels) {
    const std::string& operation = attributes.operation();
    const Array& weights = attributes.array("weights");
    if (x.rank() < 1) throw ArgumentError(operation, "x", "shape (..., in)", to_string(x));
    const std::int64_t in = x[x.rank() - 1];
    if (weights.shape.rank() != 2 || weights.shape[0] != in || weights.shape[1] < 1) {
      throw ArgumentError(operation, "weights",
                          "shape (" + std::to_string(in) + ", out) for x " + to_string(x),
                          to_string(weights.shape));
    }
    in_ = in;
    out_ = weights.shape[1];
    const Array* bias = attributes.optional_array("bias");
    if (bias != nullptr && bias->shape != Shape{out_}) {
      throw ArgumentError(operation, "bias", "shape (" + std::to_string(out_) + ",)", to_string(bias->shape));
    }
    matrix_.emplace(weights.values.data(), in_, out_, out_, bias == nullptr ? nullptr : bias->values.data(),
                    kernels);
    output_shape_ = x;
    output_shape_[x.rank() - 1] = out_;
  }

  // A unit is one panel of one block of rows; those of a block follow each other.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return (rows_of(output) + kBlockRows - 1) / kBlockRows * matrix_->panels();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const float* rows[kernels::kMaxMatrixRows];
    kernels::MatrixTile tile{};
    tile.rows = rows;
    tile.taps = 1;
    tile.depth = in_;
    tile.out_pitch = out_;
    tile.lowest = activation_.lowest();
    tile.highest = activation_.highest();
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t panel = unit % matrix_->panels();
      const std::int64_t begin = unit / matrix_->panels() * kBlockRows;
      const std::int64_t end = std::min(begin + kBlockRows, rows_of(output));
      for (std::int64_t done = begin, count; done < end; done += count) {
        count = balanced_tile(done, end, matrix_->max_rows());
        for (std::int64_t r = 0; r < count; ++r) rows[r] = inputs[0].data + (done + r) * in_;
        tile.out = output.data + done * out_ + matrix_->first_column(panel);
        matrix_->multiply(tile, count, panel);
      }
      if (!activation_.is_clamp()) {
        for (std::int64_t row = begin; row < end; ++row) {
          float* y = output.data + row * out_ + matrix_->first_column(panel);
          kernels_.activate(activation_.function, activation_.alpha, activation_.beta, y, y,
                            matrix_->columns(panel));
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

std::unique_ptr<Operator> make_dense(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable& kernels) {
  return std::make_unique<Dense>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
