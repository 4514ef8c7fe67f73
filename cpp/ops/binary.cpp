#include "ops/binary.h"

#include <algorithm>
#include <map>

#include "base/errors.h"

namespace pyconv {

namespace {

using kernels::Binary;

Binary function_of(const std::string& name) {
  static const std::map<std::string, Binary> functions = {
      {"add", Binary::kAdd},       {"subtract", Binary::kSubtract}, {"multiply", Binary::kMultiply},
      {"divide", Binary::kDivide}, {"maximum", Binary::kMaximum},   {"minimum", Binary::kMinimum},
      {"power", Binary::kPower},
  };
  return functions.at(name);
}

// The shape of a's and b's broadcast. The batch goes with itself and with 1.
Shape broadcast(const std::string& operation, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result = a.rank() >= b.rank() ? a : b;
  for (int back = 1; back <= std::min(a.rank(), b.rank()); ++back) {
    const std::int64_t p = a[a.rank() - back];
    const std::int64_t q = b[b.rank() - back];
    if (p != q && p != 1 && q != 1) {
      throw ArgumentError(operation, "b", "a shape that broadcasts with " + to_string(a), to_string(b));
    }
    result[rank - back] = p == 1 ? q : p;
  }
  for (int axis = 1; axis < rank; ++axis) {
    if (result[axis] == kBatch) {
      throw ArgumentError(operation, "b", "the batch in axis 0 of both operands",
                          to_string(a) + " and " + to_string(b));
    }
  }
  return result;
}

// The output's axes with the two operands' strides, neighbours merged where both operands allow it. The
// last axis is the inner loop: its strides are 0 or 1.
struct Loops {
  int rank = 0;
  std::int64_t sizes[Shape::kMaxRank + 1];
  std::int64_t a_strides[Shape::kMaxRank + 1];
  std::int64_t b_strides[Shape::kMaxRank + 1];

  Loops(const Shape& a, const Shape& b, const Shape& out) {
    std::int64_t strides[2][Shape::kMaxRank] = {};
    for (int operand = 0; operand < 2; ++operand) {
      const Shape& shape = operand == 0 ? a : b;
      std::int64_t stride = 1;
      for (int axis = shape.rank() - 1; axis >= 0; --axis) {
        strides[operand][axis + out.rank() - shape.rank()] = shape[axis] == 1 ? 0 : stride;
        stride *= shape[axis];
      }
    }
    for (int axis = 0; axis < out.rank(); ++axis) {
      if (out[axis] == 1) continue;
      const std::int64_t size = out[axis];
      if (rank > 0 && a_strides[rank - 1] == strides[0][axis] * size &&
          b_strides[rank - 1] == strides[1][axis] * size) {
        sizes[rank - 1] *= size;
      } else {
        sizes[rank++] = size;
      }
      a_strides[rank - 1] = strides[0][axis];
      b_strides[rank - 1] = strides[1][axis];
    }
    if (rank == 0) {
      sizes[0] = 1;
      a_strides[0] = b_strides[0] = 0;
      rank = 1;
    }
  }

  std::int64_t outer() const {
    std::int64_t product = 1;
    for (int axis = 0; axis + 1 < rank; ++axis) product *= sizes[axis];
    return product;
  }
};

class BinaryOperator final : public Operator {
 public:
  BinaryOperator(const Attributes& attributes, const Shape& a, const Shape& b,
                 const kernels::KernelTable& kernels)
      : function_(function_of(attributes.operation())), kernels_(kernels) {
    output_shape_ = broadcast(attributes.operation(), a, b);
  }

  // Outer rows of the merged loops, or blocks where there is but one long row.
  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const override {
    const Loops loops(inputs[0].shape, inputs[1].shape, output.shape);
    return loops.rank > 1 ? loops.outer() : (loops.sizes[0] + kBlock - 1) / kBlock;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const Loops loops(inputs[0].shape, inputs[1].shape, output.shape);
    const int last = loops.rank - 1;
    const std::int64_t a_step = loops.a_strides[last];
    const std::int64_t b_step = loops.b_strides[last];
    if (last == 0) {
      const std::int64_t begin = range.begin * kBlock;
      const std::int64_t count = std::min(range.end * kBlock, loops.sizes[0]) - begin;
      kernels_.binary(function_, inputs[0].data + begin * a_step, a_step, inputs[1].data + begin * b_step,
                      b_step, output.data + begin, count);
      return;
    }
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* a = inputs[0].data;
      const float* b = inputs[1].data;
      std::int64_t rest = unit;
      for (int axis = last - 1; axis >= 0; --axis) {
        const std::int64_t index = rest % loops.sizes[axis];
        rest /= loops.sizes[axis];
        a += index * loops.a_strides[axis];
        b += index * loops.b_strides[axis];
      }
      kernels_.binary(function_, a, a_step, b, b_step, output.data + unit * loops.sizes[last],
                      loops.sizes[last]);
    }
  }

  std::string algorithm() const override { return "elementwise"; }
  std::int64_t flops() const override { return output_shape_.count_per_image(); }

 private:
  static constexpr std::int64_t kBlock = 4096;
  Binary function_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Operator> make_binary(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable& kernels) {
  return std::make_unique<BinaryOperator>(attributes, inputs[0], inputs[1], kernels);
}

}  // namespace pyconv
