#include "ops/quantization.h"

#include <limits>
#include <type_traits>

#include "base/errors.h"
#include "ops/broadcast.h"

namespace pyconv {

namespace {

// The integers that a float32 may be quantized to: those whose every value it holds exactly.
template <class T>
constexpr bool kSmall = std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 2;
template <class T>
constexpr bool kDequantizes = std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 4;

bool is_small(DType dtype) {
  return with_type(dtype, []<class T>() { return kSmall<T>; });
}
bool dequantizes(DType dtype) {
  return with_type(dtype, []<class T>() { return kDequantizes<T>; });
}

template <class T>
T quantized(float x, float scale, float zero_point) {
  constexpr auto lowest = static_cast<float>(std::numeric_limits<T>::min());
  constexpr auto highest = static_cast<float>(std::numeric_limits<T>::max());
  // Of so large a number no fraction is left: adding it rounds, halves to even, and it goes again. The
  // quotient is kept small enough for that first; what is cut off saturates below all the same.
  constexpr float kRounder = 12582912.0F;  // 1.5 · 2^23
  constexpr float kMost = 1048576.0F;
  float quotient = x / scale;
  quotient = quotient > -kMost ? quotient : -kMost;  // NaN too
  quotient = quotient < kMost ? quotient : kMost;
  float result = (quotient + kRounder) - kRounder + zero_point;
  result = result > lowest ? result : lowest;
  result = result < highest ? result : highest;
  return static_cast<T>(static_cast<std::int32_t>(result));
}

// x with a scale and a zero point for each of its elements, by broadcasting.
class Affine : public Operator {
 public:
  Affine(const Attributes& attributes, std::span<const TensorType> inputs) {
    const std::string& operation = attributes.operation();
    if (inputs[1].dtype != DType::kFloat32) {
      throw ArgumentError(operation, "scale", "dtype float32", to_string(inputs[1].dtype));
    }
    if (inputs[1].shape != inputs[2].shape) {
      throw ArgumentError(operation, "zero_point", "shape " + to_string(inputs[1].shape) + " as of scale",
                          to_string(inputs[2].shape));
    }
    output_shape_ = broadcast(operation, inputs[0].shape, inputs[1].shape);
    if (output_shape_ != inputs[0].shape) {
      throw ArgumentError(operation, "scale", "a shape that broadcasts to " + to_string(inputs[0].shape),
                          to_string(inputs[1].shape));
    }
  }

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const override {
    return loops_of(inputs, output).units();
  }

  std::string algorithm() const override { return "elementwise"; }
  std::int64_t flops() const override { return 2 * output_shape_.count_per_image(); }

 protected:
  static BroadcastLoops<2> loops_of(std::span<const ConstTensor> inputs, const Tensor& output) {
    return BroadcastLoops<2>({inputs[0].shape, inputs[1].shape}, output.shape);
  }
};

class Quantize final : public Affine {
 public:
  Quantize(const Attributes& attributes, std::span<const TensorType> inputs) : Affine(attributes, inputs) {
    output_dtype_ = inputs[2].dtype;
    if (inputs[0].dtype != DType::kFloat32) {
      throw ArgumentError(attributes.operation(), "x", "dtype float32", to_string(inputs[0].dtype));
    }
    if (!is_small(output_dtype_)) {
      throw ArgumentError(attributes.operation(), "zero_point", "dtype int8, uint8, int16 or uint16",
                          to_string(output_dtype_));
    }
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    with_type(output.dtype, [&]<class T>() {
      if constexpr (kSmall<T>) {
        const BroadcastLoops<2> loops = loops_of(inputs, output);
        const bool each = loops.step(1) != 0;
        loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
          const float* x = inputs[0].data + begin;
          const float* scale = inputs[1].data + offsets[1];
          const T* zero_point = inputs[2].as<T>() + offsets[1];
          T* y = output.as<T>() + begin;
          if (each) {
            for (std::int64_t i = 0; i < count; ++i) {
              y[i] = quantized<T>(x[i], scale[i], static_cast<float>(zero_point[i]));
            }
          } else {
            const float one_scale = *scale;
            const auto one_zero = static_cast<float>(*zero_point);
            for (std::int64_t i = 0; i < count; ++i) y[i] = quantized<T>(x[i], one_scale, one_zero);
          }
        });
      }
    });
  }
};

class Dequantize final : public Affine {
 public:
  Dequantize(const Attributes& attributes, std::span<const TensorType> inputs) : Affine(attributes, inputs) {
    if (!dequantizes(inputs[0].dtype)) {
      throw ArgumentError(attributes.operation(), "x", "an integer dtype of at most 32 bits",
                          to_string(inputs[0].dtype));
    }
    if (inputs[0].dtype != inputs[2].dtype) {
      throw ArgumentError(attributes.operation(), "zero_point", "dtype " + to_string(inputs[0].dtype),
                          to_string(inputs[2].dtype));
    }
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    with_type(inputs[0].dtype, [&]<class T>() {
      if constexpr (kDequantizes<T>) {
        using Difference = std::conditional_t<sizeof(T) <= 2, std::int32_t, std::int64_t>;
        const BroadcastLoops<2> loops = loops_of(inputs, output);
        const std::int64_t step = loops.step(1);
        loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
          const T* x = inputs[0].as<T>() + begin;
          const float* scale = inputs[1].data + offsets[1];
          const T* zero_point = inputs[2].as<T>() + offsets[1];
          for (std::int64_t i = 0; i < count; ++i) {
            const Difference difference = static_cast<Difference>(x[i]) - zero_point[i * step];
            output.data[begin + i] = static_cast<float>(difference) * scale[i * step];
          }
        });
      }
    });
  }
};

}  // namespace

std::unique_ptr<Operator> make_quantize(const Attributes& attributes, std::span<const TensorType> inputs,
                                        const kernels::KernelTable&) {
  return std::make_unique<Quantize>(attributes, inputs);
}

std::unique_ptr<Operator> make_dequantize(const Attributes& attributes, std::span<const TensorType> inputs,
                                          const kernels::KernelTable&) {
  return std::make_unique<Dequantize>(attributes, inputs);
}

}  // namespace pyconv
