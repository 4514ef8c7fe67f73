#include "ops/cast.h"

#include <algorithm>
#include <limits>
#include <type_traits>

namespace pyconv {

namespace {

template <class To, class From>
To converted(From x) {
  if constexpr (std::is_same_v<To, bool>) {
    return x != From{};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (x != x) return 0;
    // The bounds as floating-point numbers; the upper one may have been rounded up, out of To's range.
    constexpr auto lowest = static_cast<From>(std::numeric_limits<To>::min());
    constexpr auto highest = static_cast<From>(std::numeric_limits<To>::max());
    if (x <= lowest) return std::numeric_limits<To>::min();
    if (x >= highest) return std::numeric_limits<To>::max();
    return static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

class Cast final : public Operator {
 public:
  Cast(const Attributes& attributes, const TensorType& x) {
    output_shape_ = x.shape;
    output_dtype_ = parse_dtype(attributes.operation(), attributes.text("dtype", "float32"));
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return (output.shape.count() + kBlock - 1) / kBlock;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const std::int64_t begin = range.begin * kBlock;
    const std::int64_t end = std::min(range.end * kBlock, output.shape.count());
    with_type(inputs[0].dtype, [&]<class From>() {
      with_type(output.dtype, [&]<class To>() {
        const From* x = inputs[0].as<From>();
        To* y = output.as<To>();
        for (std::int64_t i = begin; i < end; ++i) y[i] = converted<To>(x[i]);
      });
    });
  }

  std::string algorithm() const override { return "elementwise"; }

 private:
  static constexpr std::int64_t kBlock = 4096;
};

}  // namespace

std::unique_ptr<Operator> make_cast(const Attributes& attributes, std::span<const TensorType> inputs,
                                    const kernels::KernelTable&) {
  return std::make_unique<Cast>(attributes, inputs[0]);
}

}  // namespace pyconv
