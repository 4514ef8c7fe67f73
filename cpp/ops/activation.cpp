#include "ops/activation.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/errors.h"

namespace pyconv {

namespace {

using kernels::Activation;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The function of a name and the defaults of its parameters: ONNX's, where ONNX has the operator.
struct Entry {
  Activation function;
  float alpha = 0.0F;
  float beta = 0.0F;
};

const std::map<std::string, Entry>& entries() {
  static const std::map<std::string, Entry> table = {
      {"linear", {Activation::kLinear}},
      {"relu", {Activation::kClip, 0.0F, kInfinity}},
      {"relu6", {Activation::kClip, 0.0F, 6.0F}},
      {"clip", {Activation::kClip, -kInfinity, kInfinity}},
      {"leaky_relu", {Activation::kLeakyRelu, 0.01F}},
      {"elu", {Activation::kElu, 1.0F}},
      {"selu", {Activation::kSelu, 1.67326319F, 1.05070102F}},
      {"sigmoid", {Activation::kSigmoid}},
      {"tanh", {Activation::kTanh}},
      {"softplus", {Activation::kSoftplus}},
      {"softsign", {Activation::kSoftsign}},
      {"swish", {Activation::kSwish, 1.0F}},
      {"hard_sigmoid", {Activation::kHardSigmoid, 0.2F, 0.5F}},
      {"hard_swish", {Activation::kHardSwish}},
      {"gelu", {Activation::kGelu}},
      {"gelu_tanh", {Activation::kGeluTanh}},
      {"mish", {Activation::kMish}},
      {"exp", {Activation::kExp}},
      {"log", {Activation::kLog}},
      {"sqrt", {Activation::kSqrt}},
      {"abs", {Activation::kAbs}},
      {"negative", {Activation::kNegative}},
      {"reciprocal", {Activation::kReciprocal}},
      {"erf", {Activation::kErf}},
      {"quantize", {Activation::kQuantize, 1.0F}},
  };
  return table;
}

class ActivationOperator final : public Operator {
 public:
  ActivationOperator(const Attributes& attributes, const Shape& x, const kernels::KernelTable& kernels)
      : spec_(ActivationSpec::parse(attributes)), kernels_(kernels) {
    output_shape_ = x;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return (output.shape.count() + kBlock - 1) / kBlock;
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const std::int64_t begin = range.begin * kBlock;
    const std::int64_t end = std::min(range.end * kBlock, output.shape.count());
    kernels_.activate(spec_.function, spec_.alpha, spec_.beta, inputs[0].data + begin, output.data + begin,
                      end - begin);
  }

  std::string algorithm() const override { return "elementwise " + spec_.name; }
  std::int64_t flops() const override { return output_shape_.count_per_image(); }

 private:
  static constexpr std::int64_t kBlock = 4096;
  ActivationSpec spec_;
  const kernels::KernelTable& kernels_;
};

}  // namespace

ActivationSpec ActivationSpec::parse(const Attributes& attributes) {
  ActivationSpec spec;
  spec.name = attributes.text("activation", "linear");
  const auto found = entries().find(spec.name);
  if (found == entries().end()) {
    std::string names;
    for (const auto& [name, entry] : entries()) names += (names.empty() ? "" : ", ") + name;
    throw ArgumentError(attributes.operation(), "activation", "one of " + names, "'" + spec.name + "'");
  }
  const Entry& entry = found->second;
  spec.function = entry.function;
  spec.alpha = static_cast<float>(attributes.number("alpha", entry.alpha));
  spec.beta = static_cast<float>(attributes.number("beta", entry.beta));
  return spec;
}

bool ActivationSpec::is_clamp() const {
  return function == Activation::kLinear || function == Activation::kClip;
}

float ActivationSpec::lowest() const { return function == Activation::kClip ? alpha : -kInfinity; }

float ActivationSpec::highest() const { return function == Activation::kClip ? beta : kInfinity; }

std::string ActivationSpec::fused_text() const { return name == "linear" ? "" : ", fused " + name; }

std::unique_ptr<Operator> make_activation(const Attributes& attributes, std::span<const Shape> inputs,
                                          const kernels::KernelTable& kernels) {
  return std::make_unique<ActivationOperator>(attributes, inputs[0], kernels);
}

}  // namespace pyconv
