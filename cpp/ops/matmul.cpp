#include "ops/matmul.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "base/errors.h"
#include "ops/broadcast.h"
#include "ops/packed_matrix.h"

namespace pyconv {

namespace {

class MatMul final : public Operator {
 public:
  MatMul(const Attributes& attributes, std::span<const TensorType> inputs,
         const kernels::KernelTable& kernels)
      : kernels_(kernels) {
    const auto& [a, dtype] = inputs[0];
    const Shape& b = inputs[1].shape;
    if ((dtype != DType::kFloat32 && dtype != DType::kInt32) || dtype != inputs[1].dtype) {
      throw ArgumentError(attributes.operation(), "a and b", "both of float32 or both of int32",
                          to_string(dtype) + " and " + to_string(inputs[1].dtype));
    }
    if (a.rank() < 2 || b.rank() < 2 || a[a.rank() - 1] != b[b.rank() - 2]) {
      throw ArgumentError(attributes.operation(), "a and b", "shapes (..., m, k) and (..., k, n)",
                          to_string(a) + " and " + to_string(b));
    }
    if ((a.rank() == 2 && a.has_batch() && b.rank() > 2) || (b.rank() == 2 && b.has_batch())) {
      throw ArgumentError(attributes.operation(), "b", "the batch before the matrices, or in a alone",
                          to_string(a) + " and " + to_string(b));
    }
    depth_ = a[a.rank() - 1];
    columns_ = b[b.rank() - 1];
    const Shape matrices = broadcast(attributes.operation(), before_matrix(a), before_matrix(b));
    std::vector<std::int64_t> sizes(matrices.sizes().begin(), matrices.sizes().end());
    sizes.push_back(a[a.rank() - 2]);
    sizes.push_back(columns_);
    output_shape_ = Shape{std::span<const std::int64_t>(sizes)};
    output_dtype_ = dtype;
    // Packing a matrix pays where several rows meet it.
    packs_ = dtype == DType::kFloat32 && a[a.rank() - 2] >= kFewRows && depth_ > 0;
  }

  // A unit is a matrix of the output where b is packed, else a row.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    if (columns_ == 0) return 0;
    const std::int64_t rows = output.shape.count() / columns_;
    return packs_ ? rows / output.shape[output.shape.rank() - 2] : rows;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    if (packs_) {
      multiply_packed(inputs, output, range);
    } else if (output.dtype == DType::kFloat32) {
      multiply<float>(inputs, output, range);
    } else {
      multiply<std::int32_t>(inputs, output, range);
    }
  }

  std::string algorithm() const override { return packs_ ? "matrix product" : "row by row"; }
  std::int64_t flops() const override { return 2 * depth_ * output_shape_.count_per_image(); }

 private:
  static Shape before_matrix(const Shape& shape) {
    return Shape{shape.sizes().first(static_cast<std::size_t>(shape.rank() - 2))};
  }

  static constexpr std::int64_t kFewRows = 4;

  void multiply_packed(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range) const {
    const std::int64_t rows = output.shape[output.shape.rank() - 2];
    kernels::MatrixBlock block{};
    block.x_pitch = depth_;
    block.rows = rows;
    block.out_pitch = columns_;
    block.finish = true;
    block.lowest = -std::numeric_limits<float>::infinity();
    block.highest = std::numeric_limits<float>::infinity();
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* b = inputs[1].data + matrix_of(inputs[1].shape, output.shape, unit) * depth_ * columns_;
      const PackedMatrix matrix(b, 1, depth_, columns_, columns_, nullptr, kernels_);
      block.x = inputs[0].data + matrix_of(inputs[0].shape, output.shape, unit) * rows * depth_;
      block.out = output.data + unit * rows * columns_;
      matrix.multiply(block, 0, matrix.panels());
    }
  }

  template <class T>
  void multiply(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range) const {
    // So that integers wrap around instead of overflowing.
    using Sum = std::conditional_t<std::is_integral_v<T>, std::uint32_t, T>;
    const Shape& y_shape = output.shape;
    const std::int64_t rows = y_shape[y_shape.rank() - 2];
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t row = unit % rows;
      const Sum* a =
          inputs[0].as<Sum>() + (matrix_of(inputs[0].shape, y_shape, unit / rows) * rows + row) * depth_;
      const Sum* b =
          inputs[1].as<Sum>() + matrix_of(inputs[1].shape, y_shape, unit / rows) * depth_ * columns_;
      Sum* y = output.as<Sum>() + unit * columns_;
      std::fill_n(y, columns_, Sum{});
      for (std::int64_t k = 0; k < depth_; ++k) {
        const Sum factor = a[k];
        const Sum* terms = b + k * columns_;
        for (std::int64_t j = 0; j < columns_; ++j) y[j] += factor * terms[j];
      }
    }
  }

  // The number of an operand's matrix that the output's matrix of that number is made of.
  static std::int64_t matrix_of(const Shape& operand, const Shape& output, std::int64_t number) {
    std::int64_t place = 0;
    std::int64_t stride = 1;
    const int behind = output.rank() - operand.rank();
    for (int axis = output.rank() - 3; axis >= behind; --axis) {
      const std::int64_t size = operand[axis - behind];
      const std::int64_t index = number % output[axis];
      number /= output[axis];
      if (size != 1) place += index * stride;
      stride *= size;
    }
    return place;
  }

  std::int64_t depth_;
  std::int64_t columns_;
  bool packs_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_matmul(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels) {
  return std::make_unique<MatMul>(attributes, inputs, kernels);
}

}  // namespace pyconv
