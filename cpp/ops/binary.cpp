#include "ops/binary.h"

#include <bit>
#include <cmath>
#include <map>
#include <type_traits>

#include "base/errors.h"
#include "ops/broadcast.h"

namespace pyconv {

namespace {

using kernels::Binary;

const std::map<std::string, Binary>& functions() {
  static const std::map<std::string, Binary> table = {
      {"add", Binary::kAdd},       {"subtract", Binary::kSubtract}, {"multiply", Binary::kMultiply},
      {"divide", Binary::kDivide}, {"maximum", Binary::kMaximum},   {"minimum", Binary::kMinimum},
      {"power", Binary::kPower},
  };
  return table;
}

enum class Comparison { kEqual, kLess, kLessOrEqual, kGreater, kGreaterOrEqual, kAnd, kOr, kXor };

const std::map<std::string, Comparison>& comparisons() {
  static const std::map<std::string, Comparison> table = {
      {"equal", Comparison::kEqual},
      {"less", Comparison::kLess},
      {"less_or_equal", Comparison::kLessOrEqual},
      {"greater", Comparison::kGreater},
      {"greater_or_equal", Comparison::kGreaterOrEqual},
      {"logical_and", Comparison::kAnd},
      {"logical_or", Comparison::kOr},
      {"logical_xor", Comparison::kXor},
  };
  return table;
}

// What both kinds share: the broadcast of two operands of one dtype.
class BinaryOperator : public Operator {
 public:
  BinaryOperator(const Attributes& attributes, std::span<const TensorType> inputs) {
    if (inputs[0].dtype != inputs[1].dtype) {
      throw ArgumentError(attributes.operation(), "b", "dtype " + to_string(inputs[0].dtype) + " as of a",
                          to_string(inputs[1].dtype));
    }
    output_shape_ = broadcast(attributes.operation(), inputs[0].shape, inputs[1].shape);
  }

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const override {
    return loops_of(inputs, output).units();
  }

  std::string algorithm() const override { return "elementwise"; }
  std::int64_t flops() const override { return output_shape_.count_per_image(); }

 protected:
  static BroadcastLoops<2> loops_of(std::span<const ConstTensor> inputs, const Tensor& output) {
    return BroadcastLoops<2>({inputs[0].shape, inputs[1].shape}, output.shape);
  }
};

template <class T>
T combined(Binary function, T a, T b) {
  if (function == Binary::kMaximum) return a > b || a != a ? a : b;
  if (function == Binary::kMinimum) return a < b || a != a ? a : b;
  if (function == Binary::kPower) {
    return static_cast<T>(std::pow(static_cast<double>(a), static_cast<double>(b)));
  }
  if constexpr (std::is_integral_v<T>) {
    if (function == Binary::kDivide) {
      // In 64 bits only the least number has no opposite.
      if (b == 0) return 0;
      if (std::is_signed_v<T> && static_cast<std::int64_t>(b) == -1)
        return combined<T>(Binary::kSubtract, 0, a);
      return static_cast<T>(a / b);
    }
    const auto p = static_cast<std::uint64_t>(a);
    const auto q = static_cast<std::uint64_t>(b);
    if (function == Binary::kAdd) return static_cast<T>(p + q);
    if (function == Binary::kSubtract) return static_cast<T>(p - q);
    return static_cast<T>(p * q);
  } else {
    if (function == Binary::kAdd) return a + b;
    if (function == Binary::kSubtract) return a - b;
    if (function == Binary::kMultiply) return a * b;
    return a / b;
  }
}

class Arithmetic final : public BinaryOperator {
 public:
  Arithmetic(const Attributes& attributes, std::span<const TensorType> inputs,
             const kernels::KernelTable& kernels)
      : BinaryOperator(attributes, inputs),
        function_(functions().at(attributes.operation())),
        kernels_(kernels) {
    output_dtype_ = inputs[0].dtype;
    if (output_dtype_ == DType::kBool) {
      throw ArgumentError(attributes.operation(), "a", "numbers", to_string(output_dtype_));
    }
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const BroadcastLoops<2> loops = loops_of(inputs, output);
    const std::int64_t a_step = loops.step(0);
    const std::int64_t b_step = loops.step(1);
    if (output.dtype == DType::kFloat32) {
      loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
        kernels_.binary(function_, inputs[0].data + offsets[0], a_step, inputs[1].data + offsets[1], b_step,
                        output.data + begin, count);
      });
      return;
    }
    with_type(output.dtype, [&]<class T>() {
      if constexpr (!std::is_same_v<T, bool>) {
        loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
          const T* a = inputs[0].as<T>() + offsets[0];
          const T* b = inputs[1].as<T>() + offsets[1];
          T* y = output.as<T>() + begin;
          for (std::int64_t i = 0; i < count; ++i) y[i] = combined(function_, a[i * a_step], b[i * b_step]);
        });
      }
    });
  }

 private:
  Binary function_;
  const kernels::KernelTable& kernels_;
};

template <class T>
bool compared(Comparison comparison, T a, T b) {
  switch (comparison) {
    case Comparison::kEqual:
      return a == b;
    case Comparison::kLess:
      return a < b;
    case Comparison::kLessOrEqual:
      return a <= b;
    case Comparison::kGreater:
      return a > b;
    case Comparison::kGreaterOrEqual:
      return a >= b;
    case Comparison::kAnd:
      return a != T{} && b != T{};
    case Comparison::kOr:
      return a != T{} || b != T{};
    case Comparison::kXor:
      break;
  }
  return (a != T{}) != (b != T{});
}

class ComparisonOperator final : public BinaryOperator {
 public:
  ComparisonOperator(const Attributes& attributes, std::span<const TensorType> inputs)
      : BinaryOperator(attributes, inputs), comparison_(comparisons().at(attributes.operation())) {
    output_dtype_ = DType::kBool;
    if (comparison_ >= Comparison::kAnd && inputs[0].dtype != DType::kBool) {
      throw ArgumentError(attributes.operation(), "a", "dtype bool", to_string(inputs[0].dtype));
    }
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const BroadcastLoops<2> loops = loops_of(inputs, output);
    with_type(inputs[0].dtype, [&]<class T>() {
      loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
        const T* a = inputs[0].as<T>() + offsets[0];
        const T* b = inputs[1].as<T>() + offsets[1];
        bool* y = output.as<bool>() + begin;
        for (std::int64_t i = 0; i < count; ++i) {
          y[i] = compared(comparison_, a[i * loops.step(0)], b[i * loops.step(1)]);
        }
      });
    });
  }

 private:
  Comparison comparison_;
};

// slope * x where x < 0, else x: chosen by bits, for which compilers need no branch.
float sloped(float x, float slope) {
  const std::uint32_t mask = x < 0.0F ? ~std::uint32_t{0} : 0;
  const std::uint32_t below = std::bit_cast<std::uint32_t>(slope * x) & mask;
  return std::bit_cast<float>(below | (std::bit_cast<std::uint32_t>(x) & ~mask));
}

class PRelu final : public BinaryOperator {
 public:
  PRelu(const Attributes& attributes, std::span<const TensorType> inputs)
      : BinaryOperator(attributes, inputs) {
    if (inputs[0].dtype != DType::kFloat32) {
      throw ArgumentError(attributes.operation(), "x", "dtype float32", to_string(inputs[0].dtype));
    }
    if (output_shape_ != inputs[0].shape) {
      throw ArgumentError(attributes.operation(), "slope",
                          "a shape that broadcasts to " + to_string(inputs[0].shape),
                          to_string(inputs[1].shape));
    }
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const BroadcastLoops<2> loops = loops_of(inputs, output);
    loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
      const float* x = inputs[0].data + begin;
      const float* slope = inputs[1].data + offsets[1];
      float* y = output.data + begin;
      if (loops.step(1) == 0) {
        const float one = *slope;
        for (std::int64_t i = 0; i < count; ++i) y[i] = sloped(x[i], one);
      } else {
        for (std::int64_t i = 0; i < count; ++i) y[i] = sloped(x[i], slope[i]);
      }
    });
  }
};

}  // namespace

std::unique_ptr<Operator> make_prelu(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable&) {
  return std::make_unique<PRelu>(attributes, inputs);
}

std::unique_ptr<Operator> make_binary(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable& kernels) {
  return std::make_unique<Arithmetic>(attributes, inputs, kernels);
}

std::unique_ptr<Operator> make_comparison(const Attributes& attributes, std::span<const TensorType> inputs,
                                          const kernels::KernelTable&) {
  return std::make_unique<ComparisonOperator>(attributes, inputs);
}

}  // namespace pyconv
