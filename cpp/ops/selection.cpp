#include "ops/selection.h"

#include <algorithm>
#include <vector>

#include "base/errors.h"
#include "ops/axes.h"
#include "ops/broadcast.h"

namespace pyconv {

namespace {

class Gather final : public Operator {
 public:
  Gather(const Attributes& attributes, const TensorType& x, const TensorType& indices) {
    const std::string& operation = attributes.operation();
    if (indices.dtype != DType::kInt32 && indices.dtype != DType::kInt64) {
      throw ArgumentError(operation, "indices", "dtype int32 or int64", to_string(indices.dtype));
    }
    axis_ = parse_axis(attributes, x.shape, 0);
    std::vector<std::int64_t> sizes;
    for (int axis = 0; axis < x.shape.rank(); ++axis) {
      if (axis == axis_) {
        sizes.insert(sizes.end(), indices.shape.sizes().begin(), indices.shape.sizes().end());
      } else {
        sizes.push_back(x.shape[axis]);
      }
    }
    if (indices.shape.has_batch() && axis_ != 0) {
      throw ArgumentError(operation, "indices", "no batch but for axis 0", to_string(indices.shape));
    }
    size_ = x.shape[axis_];
    if (size_ == 0) throw ArgumentError(operation, "x", "an axis with places in it", to_string(x.shape));
    inner_bytes_ = static_cast<std::int64_t>(size_of(x.dtype)) * x.shape.count(axis_ + 1, x.shape.rank());
    output_shape_ = Shape{std::span<const std::int64_t>(sizes)};
    output_dtype_ = x.dtype;
  }

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor&) const override {
    return inputs[0].shape.count(0, axis_) * inputs[1].shape.count();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const std::int64_t count = inputs[1].shape.count();
    const bool wide = inputs[1].dtype == DType::kInt64;
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t i = unit % count;
      std::int64_t place = wide ? inputs[1].as<std::int64_t>()[i] : inputs[1].as<std::int32_t>()[i];
      place = std::clamp<std::int64_t>(place < 0 ? place + size_ : place, 0, size_ - 1);
      const auto* x = inputs[0].as<std::byte>() + (unit / count * size_ + place) * inner_bytes_;
      std::copy_n(x, inner_bytes_, output.as<std::byte>() + unit * inner_bytes_);
    }
  }

  std::string algorithm() const override { return "copy"; }

 private:
  int axis_;
  std::int64_t size_;
  std::int64_t inner_bytes_;
};

class Where final : public Operator {
 public:
  Where(const Attributes& attributes, std::span<const TensorType> inputs) {
    const std::string& operation = attributes.operation();
    if (inputs[0].dtype != DType::kBool) {
      throw ArgumentError(operation, "condition", "dtype bool", to_string(inputs[0].dtype));
    }
    if (inputs[1].dtype != inputs[2].dtype) {
      throw ArgumentError(operation, "b", "dtype " + to_string(inputs[1].dtype) + " as of a",
                          to_string(inputs[2].dtype));
    }
    output_shape_ =
        broadcast(operation, inputs[0].shape, broadcast(operation, inputs[1].shape, inputs[2].shape));
    output_dtype_ = inputs[1].dtype;
  }

  std::int64_t units(std::span<const ConstTensor> inputs, const Tensor& output) const override {
    return loops_of(inputs, output).units();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const BroadcastLoops<3> loops = loops_of(inputs, output);
    with_type(output.dtype, [&]<class T>() {
      loops.run(range, [&](std::int64_t begin, std::int64_t count, const auto& offsets) {
        const bool* condition = inputs[0].as<bool>() + offsets[0];
        const T* a = inputs[1].as<T>() + offsets[1];
        const T* b = inputs[2].as<T>() + offsets[2];
        T* y = output.as<T>() + begin;
        for (std::int64_t i = 0; i < count; ++i) {
          y[i] = condition[i * loops.step(0)] ? a[i * loops.step(1)] : b[i * loops.step(2)];
        }
      });
    });
  }

  std::string algorithm() const override { return "elementwise"; }

 private:
  static BroadcastLoops<3> loops_of(std::span<const ConstTensor> inputs, const Tensor& output) {
    return BroadcastLoops<3>({inputs[0].shape, inputs[1].shape, inputs[2].shape}, output.shape);
  }
};

class ArgExtreme final : public Operator {
 public:
  ArgExtreme(const Attributes& attributes, const Shape& x)
      : largest_(attributes.operation() == "arg_max"),
        last_(attributes.integer("select_last_index", 0) != 0) {
    const int axis = parse_axis(attributes, x, 0);
    const bool keep = attributes.integer("keepdims", 1) != 0;
    size_ = x[axis];
    if (size_ < 1)
      throw ArgumentError(attributes.operation(), "x", "an axis with places in it", to_string(x));
    inner_ = x.count(axis + 1, x.rank());
    std::vector<std::int64_t> sizes;
    for (int i = 0; i < x.rank(); ++i) {
      if (i != axis || keep) sizes.push_back(i == axis ? 1 : x[i]);
    }
    output_shape_ = Shape{std::span<const std::int64_t>(sizes)};
    output_dtype_ = DType::kInt64;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const float* x = inputs[0].data + unit / inner_ * size_ * inner_ + unit % inner_;
      std::int64_t best = 0;
      for (std::int64_t i = 1; i < size_; ++i) {
        if (beats(x[i * inner_], x[best * inner_])) best = i;
      }
      output.as<std::int64_t>()[unit] = best;
    }
  }

  std::string algorithm() const override { return "by rows"; }
  std::int64_t flops() const override { return size_ * output_shape_.count_per_image(); }

 private:
  bool beats(float later, float best) const {
    if (later != later) return best == best || last_;
    if (later == best) return last_;
    return largest_ ? later > best : later < best;
  }

  bool largest_;
  bool last_;
  std::int64_t size_;
  std::int64_t inner_;
};

}  // namespace

std::unique_ptr<Operator> make_gather(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable&) {
  return std::make_unique<Gather>(attributes, inputs[0], inputs[1]);
}

std::unique_ptr<Operator> make_where(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable&) {
  return std::make_unique<Where>(attributes, inputs);
}

std::unique_ptr<Operator> make_arg_extreme(const Attributes& attributes, std::span<const Shape> inputs,
                                           const kernels::KernelTable&) {
  return std::make_unique<ArgExtreme>(attributes, inputs[0]);
}

}  // namespace pyconv
