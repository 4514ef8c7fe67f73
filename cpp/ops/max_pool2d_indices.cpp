#include "ops/max_pool2d_indices.h"

#include "base/errors.h"
#include "ops/window.h"

namespace pyconv {

namespace {

class MaxPool2dIndices final : public Operator {
 public:
  MaxPool2dIndices(const Attributes& attributes, const Shape& x)
      : by_columns_(attributes.integer("storage_order", 0) != 0) {
    if (x.rank() != 4 || x.has_batch()) {
      throw ArgumentError(attributes.operation(), "x", "shape (images, height, width, channels)",
                          to_string(x));
    }
    const auto size = parse_pair(attributes, "kernel_size", 1);
    window_ = Window2d::parse(attributes, size[0], size[1], true);
    const auto out = window_.output_size(attributes.operation(), x[1], x[2]);
    output_shape_ = Shape{x[0], out[0], out[1], x[3]};
    output_dtype_ = DType::kInt64;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count(0, 3);  // pixels
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const Shape& x = inputs[0].shape;
    const std::int64_t channels = x[3];
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t image = unit / (output.shape[1] * output.shape[2]);
      const std::int64_t row = unit / output.shape[2] % output.shape[1];
      const std::int64_t column = unit % output.shape[2];
      for (std::int64_t c = 0; c < channels; ++c) {
        const float* map = inputs[0].data + image * x[1] * x[2] * channels + c;
        const std::int64_t plane = (image * channels + c) * x[1] * x[2];
        output.as<std::int64_t>()[unit * channels + c] = plane + place_of_maximum(map, x, row, column);
      }
    }
  }

  std::string algorithm() const override { return "direct"; }

 private:
  std::int64_t place_of_maximum(const float* map, const Shape& x, std::int64_t row,
                                std::int64_t column) const {
    std::int64_t place = 0;
    float best = 0.0F;
    bool found = false;
    const auto [first_u, end_u] = window_.height.taps_inside(row, x[1]);
    const auto [first_v, end_v] = window_.width.taps_inside(column, x[2]);
    for (std::int64_t u = first_u; u < end_u; ++u) {
      const std::int64_t i = window_.height.begin(row) + u * window_.height.dilation;
      for (std::int64_t v = first_v; v < end_v; ++v) {
        const std::int64_t j = window_.width.begin(column) + v * window_.width.dilation;
        const float value = map[(i * x[2] + j) * x[3]];
        if (found && !(value > best || (value != value && best == best))) continue;
        found = true;
        best = value;
        place = by_columns_ ? j * x[1] + i : i * x[2] + j;
      }
    }
    return place;
  }

  Window2d window_;
  bool by_columns_;
};

}  // namespace

std::unique_ptr<Operator> make_max_pool2d_indices(const Attributes& attributes, std::span<const Shape> inputs,
                                                  const kernels::KernelTable&) {
  return std::make_unique<MaxPool2dIndices>(attributes, inputs[0]);
}

}  // namespace pyconv
