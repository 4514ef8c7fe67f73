// Functions of one number and of two, rows, softmax, transposing, quantizing. The naive loops are those of
// cpp/reference, where the operators' tests find them too.
#include <algorithm>
#include <cmath>

#include "benchmarks/kernel_benchmark.h"
#include "ops/activation.h"
#include "reference/reference.h"

namespace pyconv::benchmarks {

namespace {

using kernels::KernelTable;

constexpr std::int64_t kCount = 4096;  // 16 kB in, 16 kB out: half of a first-level cache

reference::Tensor tensor_of(const AlignedBuffer& values, const Shape& shape) {
  reference::Tensor tensor{shape, {}};
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.values.push_back(static_cast<double>(values.data()[i]));
  }
  return tensor;
}

reference::Tensor tensor_of(const AlignedBuffer& values) {
  return tensor_of(values, {static_cast<std::int64_t>(values.size())});
}

Array array_of(const AlignedBuffer& values) {
  return {{static_cast<std::int64_t>(values.size())}, {values.data(), values.data() + values.size()}};
}

std::vector<double> by_reference(const Attributes& attributes, std::vector<reference::Tensor> inputs) {
  return reference::run(attributes, inputs).values;
}

Attributes activation(const std::string& name) {
  Attributes attributes("activation");
  attributes.set("activation", name);
  if (name == "quantize") {
    attributes.set("alpha", 1.0 / 128);
    attributes.set("beta", 128.0);
  }
  return attributes;
}

class ActivationBenchmark final : public KernelBenchmark {
 public:
  ActivationBenchmark(const KernelTable& table, const std::string& name)
      : table_(table),
        attributes_(activation(name)),
        spec_(ActivationSpec::parse(attributes_)),
        x_(uniform(kCount, 1)),
        y_(static_cast<std::size_t>(kCount)) {
    // Some are of positive numbers alone.
    const bool positive = name == "log" || name == "sqrt" || name == "reciprocal";
    for (std::int64_t i = 0; i < kCount; ++i) {
      float& x = x_.data()[i];
      x = positive ? 1.5F + x : 6.0F * x;
    }
  }

  void run() override {
    table_.activate(spec_.function, spec_.alpha, spec_.beta, x_.data(), y_.data(), kCount);
  }

  std::string fault() const override {
    const std::vector<double> expected = by_reference(attributes_, {tensor_of(x_)});
    double most = 0.0;
    for (const double y : expected) most = std::max(most, std::abs(y));
    return difference(all_of(y_), expected, 1e-6 * most);
  }

  Work work() const override { return {0, 2.0 * sizeof(float) * kCount}; }

 private:
  const KernelTable& table_;
  Attributes attributes_;
  ActivationSpec spec_;
  AlignedBuffer x_, y_;
};

class BinaryBenchmark final : public KernelBenchmark {
 public:
  BinaryBenchmark(const KernelTable& table, const std::string& name, kernels::Binary function,
                  std::int64_t b_step)
      : table_(table),
        attributes_(name),
        function_(function),
        b_step_(b_step),
        a_(uniform(kCount, 1)),
        b_(uniform(b_step == 0 ? 1 : kCount, 2)),
        y_(static_cast<std::size_t>(kCount)) {
    for (std::size_t i = 0; i < a_.size(); ++i) a_.data()[i] += 2.0F;
    for (std::size_t i = 0; i < b_.size(); ++i) b_.data()[i] += 2.0F;
  }

  void run() override { table_.binary(function_, a_.data(), 1, b_.data(), b_step_, y_.data(), kCount); }

  std::string fault() const override {
    return difference(all_of(y_), by_reference(attributes_, {tensor_of(a_), tensor_of(b_)}), 4e-6);
  }

  Work work() const override { return {0, (b_step_ == 0 ? 2.0 : 3.0) * sizeof(float) * kCount}; }

 private:
  const KernelTable& table_;
  Attributes attributes_;
  kernels::Binary function_;
  std::int64_t b_step_;
  AlignedBuffer a_, b_, y_;
};

class SoftmaxBenchmark final : public KernelBenchmark {
 public:
  SoftmaxBenchmark(const KernelTable& table, std::int64_t count, bool logarithm)
      : table_(table),
        attributes_(logarithm ? "log_softmax" : "softmax"),
        logarithm_(logarithm),
        x_(uniform(count, 1)),
        y_(static_cast<std::size_t>(count)) {}

  void run() override {
    table_.softmax(x_.data(), y_.data(), static_cast<std::int64_t>(x_.size()), logarithm_);
  }

  std::string fault() const override {
    // A logarithm may be as large as the one of `count`.
    const double most = logarithm_ ? 1.0 + std::log(static_cast<double>(x_.size())) : 1.0;
    return difference(all_of(y_), by_reference(attributes_, {tensor_of(x_)}), 1e-6 * most);
  }

  Work work() const override { return {0, 2.0 * sizeof(float) * static_cast<double>(x_.size())}; }

 private:
  const KernelTable& table_;
  Attributes attributes_;
  bool logarithm_;
  AlignedBuffer x_, y_;
};

// Sums, extremes or normalisation of the rows of a matrix.
class RowsBenchmark final : public KernelBenchmark {
 public:
  RowsBenchmark(const KernelTable& table, const std::string& name, std::int64_t rows, std::int64_t count)
      : table_(table),
        attributes_(name == "normalize" ? "layer_normalization" : "reduce"),
        name_(name),
        rows_(rows),
        count_(count),
        x_(uniform(rows * count, 1)),
        scale_(uniform(count, 2)),
        bias_(uniform(count, 3)),
        y_(static_cast<std::size_t>(name == "normalize" ? rows * count : rows)) {
    if (name == "normalize") {
      attributes_.set("scale", array_of(scale_));
      attributes_.set("bias", array_of(bias_));
      return;
    }
    attributes_.set("function", name);
    attributes_.set("axes", std::vector<std::int64_t>{1});
    attributes_.set("keepdims", std::int64_t{0});
  }

  void run() override {
    if (name_ == "normalize") {
      table_.normalize_rows(x_.data(), rows_, count_, 1e-5F, scale_.data(), bias_.data(), y_.data());
    } else if (name_ == "sum") {
      table_.sum_rows(x_.data(), rows_, count_, 1.0, y_.data());
    } else {
      (name_ == "max" ? table_.max_rows : table_.min_rows)(x_.data(), rows_, count_, y_.data());
    }
  }

  std::string fault() const override {
    return difference(all_of(y_), by_reference(attributes_, {tensor_of(x_, Shape{rows_, count_})}), 1e-5);
  }

  Work work() const override { return {0, sizeof(float) * static_cast<double>(x_.size() + y_.size())}; }

 private:
  const KernelTable& table_;
  Attributes attributes_;
  std::string name_;
  std::int64_t rows_, count_;
  AlignedBuffer x_, scale_, bias_, y_;
};

class TransposeBenchmark final : public KernelBenchmark {
 public:
  TransposeBenchmark(const KernelTable& table, std::int64_t rows, std::int64_t columns)
      : table_(table),
        rows_(rows),
        columns_(columns),
        x_(uniform(rows * columns, 1)),
        y_(static_cast<std::size_t>(rows * columns)) {}

  void run() override { table_.transpose(x_.data(), columns_, rows_, columns_, y_.data(), rows_); }

  std::string fault() const override {
    std::vector<double> expected;
    for (std::int64_t c = 0; c < columns_; ++c) {
      for (std::int64_t r = 0; r < rows_; ++r) {
        expected.push_back(static_cast<double>(x_.data()[r * columns_ + c]));
      }
    }
    return difference(all_of(y_), expected, 0.0);
  }

  Work work() const override { return {0, 2.0 * sizeof(float) * static_cast<double>(x_.size())}; }

 private:
  const KernelTable& table_;
  std::int64_t rows_, columns_;
  AlignedBuffer x_, y_;
};

class QuantizeBenchmark final : public KernelBenchmark {
 public:
  explicit QuantizeBenchmark(const KernelTable& table)
      : table_(table), x_(uniform(kCount, 1)), steps_(static_cast<std::size_t>(kCount)) {}

  void run() override { table_.quantize(x_.data(), kScale, kBelow, steps_.data(), kCount); }

  std::string fault() const override {
    AlignedBuffer values(steps_.size());
    std::vector<double> expected;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      values.data()[i] = static_cast<float>(steps_[i]);
      const auto below = static_cast<double>(kBelow);
      expected.push_back(
          std::clamp(std::nearbyint(static_cast<double>(x_.data()[i] / kScale)), -below, 255.0 - below));
    }
    return difference(all_of(values), expected, 0.0);
  }

  Work work() const override {
    return {0, (sizeof(float) + sizeof(std::int16_t)) * static_cast<double>(kCount)};
  }

 private:
  static constexpr float kScale = 1.0F / 256.0F;
  static constexpr float kBelow = 90.0F;
  const KernelTable& table_;
  AlignedBuffer x_;
  std::vector<std::int16_t> steps_;
};

}  // namespace

void add_elementwise_kernels(List& list) {
  const std::string count = text("/count:", kCount);
  for (const char* name :
       {"linear",   "relu",  "leaky_relu",   "elu",        "selu",       "sigmoid",   "tanh",    "softplus",
        "softsign", "swish", "hard_sigmoid", "hard_swish", "gelu",       "gelu_tanh", "mish",    "exp",
        "log",      "sqrt",  "abs",          "negative",   "reciprocal", "erf",       "quantize"}) {
    list.add<ActivationBenchmark>(text("activate<", name, ">", count), std::string(name));
  }

  using kernels::Binary;
  for (const auto& [name, function] :
       {std::pair{"add", Binary::kAdd}, std::pair{"subtract", Binary::kSubtract},
        std::pair{"multiply", Binary::kMultiply}, std::pair{"divide", Binary::kDivide},
        std::pair{"maximum", Binary::kMaximum}, std::pair{"minimum", Binary::kMinimum},
        std::pair{"power", Binary::kPower}}) {
    list.add<BinaryBenchmark>(text("binary<", name, ">", count), std::string(name), function, 1);
  }
  list.add<BinaryBenchmark>("binary<add>/scalar" + count, std::string("add"), Binary::kAdd, 0);

  for (const std::int64_t classes : {10, 1000}) {
    const std::string sizes = text("/count:", classes);
    list.add<SoftmaxBenchmark>("softmax" + sizes, classes, false);
    list.add<SoftmaxBenchmark>("log_softmax" + sizes, classes, true);
  }

  for (const std::int64_t elements : {5, 96, 1000}) {
    for (const char* name : {"sum", "max", "min", "normalize"}) {
      const std::string sizes = text("_rows/rows:64/count:", elements);
      list.add<RowsBenchmark>(name + sizes, std::string(name), 64, elements);
    }
  }

  // From channels first to last: of a small map, a strip of a large one, colours.
  for (const auto& [rows, columns] :
       {std::pair{64, 196}, std::pair{64, 784}, std::pair{256, 392}, std::pair{3, 896}, std::pair{196, 64}}) {
    list.add<TransposeBenchmark>(text("transpose/rows:", rows, "/columns:", columns), rows, columns);
  }
  list.add<QuantizeBenchmark>("quantize" + count);
}

}  // namespace pyconv::benchmarks
