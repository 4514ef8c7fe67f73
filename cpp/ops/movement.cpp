#include "ops/movement.h"

#include <algorithm>

#include "base/errors.h"
#include "ops/axes.h"

namespace pyconv {

namespace {

std::array<std::int64_t, Shape::kMaxRank> strides_of(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  std::int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[static_cast<std::size_t>(axis)] = stride;
    stride *= shape[axis];  // kBatch only ever in axis 0, whose size no stride counts
  }
  return strides;
}

void check_length(const Attributes& attributes, const std::string& name, std::size_t got, std::size_t want) {
  if (got != want) {
    throw ArgumentError(attributes.operation(), name, std::to_string(want) + " values", std::to_string(got));
  }
}

// Output element (i, j, …) is the input element at offsets[0][i] + offsets[1][j] + …, or `fill` where one
// of them is kOutside. Transposing, slicing and padding are all of this form.
class Rearrangement final : public Operator {
 public:
  static constexpr std::int64_t kOutside = -1;

  // offsets[0] is not looked at where out has the batch: images then keep their places.
  Rearrangement(const Shape& x, const Shape& out, std::vector<std::vector<std::int64_t>> offsets, float fill)
      : offsets_(std::move(offsets)), fill_(fill), image_floats_(x.count_per_image()) {
    output_shape_ = out;
    // A scalar, or only a batch, has one inner row of a single element.
    if (out.rank() - (out.has_batch() ? 1 : 0) > 0) inner_ = offsets_.back();
    contiguous_ = true;
    for (std::size_t i = 0; i < inner_.size(); ++i) {
      contiguous_ &= inner_[i] != kOutside && inner_[i] == inner_[0] + static_cast<std::int64_t>(i);
    }
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return inner_.empty() ? 0 : output.shape.count() / static_cast<std::int64_t>(inner_.size());
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    const auto count = static_cast<std::int64_t>(inner_.size());
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      float* y = output.data + unit * count;
      const std::int64_t offset = outer_offset(output.shape, unit);
      if (offset == kOutside) {
        std::fill_n(y, count, fill_);
        continue;
      }
      const float* x = inputs[0].data + offset;
      if (contiguous_) {
        std::copy_n(x + inner_[0], count, y);
      } else {
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t from = inner_[static_cast<std::size_t>(i)];
          y[i] = from == kOutside ? fill_ : x[from];
        }
      }
    }
  }

  std::string algorithm() const override { return "copy"; }

 private:
  // Where the inner row of that number begins in x.
  std::int64_t outer_offset(const Shape& out, std::int64_t unit) const {
    std::int64_t offset = 0;
    const int last = output_shape_.has_batch() && out.rank() == 1 ? 0 : out.rank() - 2;
    for (int axis = last; axis >= 0; --axis) {
      const std::int64_t index = unit % out[axis];
      unit /= out[axis];
      if (axis == 0 && output_shape_.has_batch()) {
        offset += index * image_floats_;
        continue;
      }
      const std::int64_t part = offsets_[static_cast<std::size_t>(axis)][static_cast<std::size_t>(index)];
      if (part == kOutside) return kOutside;
      offset += part;
    }
    return offset;
  }

  std::vector<std::vector<std::int64_t>> offsets_;
  std::vector<std::int64_t> inner_{0};  // the offsets along the last axis
  bool contiguous_;
  float fill_;
  std::int64_t image_floats_;
};

class Concat final : public Operator {
 public:
  Concat(const Attributes& attributes, std::span<const Shape> inputs) {
    axis_ = parse_axis(attributes, inputs[0], 0);
    output_shape_ = inputs[0];
    for (const Shape& shape : inputs.subspan(1)) {
      Shape expected = inputs[0];
      if (shape.rank() == expected.rank()) expected[axis_] = shape[axis_];
      if (shape != expected) {
        throw ArgumentError(attributes.operation(), "inputs",
                            "shapes alike but for axis " + std::to_string(axis_),
                            to_string(inputs[0]) + " and " + to_string(shape));
      }
      output_shape_[axis_] += shape[axis_];
    }
    for (const Shape& shape : inputs) rows_.push_back(shape.count(axis_, shape.rank()));
    row_ = output_shape_.count(axis_, output_shape_.rank());
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count(0, axis_);
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      float* y = output.data + unit * row_;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        y = std::copy_n(inputs[i].data + unit * rows_[i], rows_[i], y);
      }
    }
  }

  std::string algorithm() const override { return "copy"; }

 private:
  int axis_;
  std::int64_t row_;                // elements of the output in the axis and all after it
  std::vector<std::int64_t> rows_;  // of each input
};

class Reshape final : public Operator {
 public:
  Reshape(const Attributes& attributes, const Shape& x) {
    const auto sizes = attributes.integers("shape");
    Shape shape{std::span(sizes)};
    Shape rest = shape;  // without the axis that is to be found
    int free = -1;
    bool fits = true;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      if (shape[axis] == -1) {
        fits &= free == -1;
        free = axis;
        rest[axis] = 1;
      }
      fits &= shape[axis] >= -1;
    }
    const std::int64_t known = fits ? rest.count() : 0;
    if (x.has_batch()) {
      fits &= free == 0 && known == x.count_per_image();
    } else if (free >= 0) {
      fits &= known > 0 && x.count() % known == 0;
      if (fits) shape[free] = x.count() / known;
    } else {
      fits &= known == x.count();
    }
    if (!fits) {
      throw ArgumentError(attributes.operation(), "shape",
                          x.has_batch() ? "-1 for the batch, then " + std::to_string(x.count_per_image()) +
                                              " elements, as in " + to_string(x)
                                        : std::to_string(x.count()) + " elements, as in " + to_string(x),
                          to_string(Shape{std::span(sizes)}));
    }
    output_shape_ = shape;
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor&) const override { return 1; }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    if (range.begin < range.end) std::copy_n(inputs[0].data, output.shape.count(), output.data);
  }

  std::string algorithm() const override { return "view"; }
  bool is_view() const override { return true; }
};

// The places that each axis of the output takes along the same axis of x, turned into offsets.
std::unique_ptr<Operator> rearranged(const Shape& x, std::vector<std::vector<std::int64_t>> places,
                                     float fill) {
  const auto strides = strides_of(x);
  Shape out = x;
  for (int axis = x.has_batch() ? 1 : 0; axis < x.rank(); ++axis) {
    auto& along = places[static_cast<std::size_t>(axis)];
    out[axis] = static_cast<std::int64_t>(along.size());
    for (std::int64_t& place : along) {
      if (place != Rearrangement::kOutside) place *= strides[static_cast<std::size_t>(axis)];
    }
  }
  return std::make_unique<Rearrangement>(x, out, std::move(places), fill);
}

// The place in an axis of `size` that position `i` of the padded axis takes, which begins `begin` before it.
std::int64_t padded_place(const std::string& mode, std::int64_t i, std::int64_t begin, std::int64_t size) {
  const std::int64_t place = i - begin;
  if (place >= 0 && place < size) return place;
  if (mode == "constant" || size == 0) return Rearrangement::kOutside;
  if (mode == "edge") return std::clamp<std::int64_t>(place, 0, size - 1);
  const auto modulo = [](std::int64_t a, std::int64_t b) { return (a % b + b) % b; };
  if (mode == "wrap") return modulo(place, size);
  // reflect: back and forth without repeating the ends
  if (size == 1) return 0;
  const std::int64_t period = 2 * (size - 1);
  const std::int64_t folded = modulo(place, period);
  return folded < size ? folded : period - folded;
}

}  // namespace

std::unique_ptr<Operator> make_concat(const Attributes& attributes, std::span<const Shape> inputs,
                                      const kernels::KernelTable&) {
  return std::make_unique<Concat>(attributes, inputs);
}

std::unique_ptr<Operator> make_reshape(const Attributes& attributes, std::span<const Shape> inputs,
                                       const kernels::KernelTable&) {
  return std::make_unique<Reshape>(attributes, inputs[0]);
}

std::unique_ptr<Operator> make_transpose(const Attributes& attributes, std::span<const Shape> inputs,
                                         const kernels::KernelTable&) {
  const Shape& x = inputs[0];
  const auto permutation = attributes.integers("permutation");
  auto sorted = permutation;
  std::sort(sorted.begin(), sorted.end());
  bool fits = permutation.size() == static_cast<std::size_t>(x.rank());
  for (std::size_t i = 0; fits && i < sorted.size(); ++i) fits = sorted[i] == static_cast<std::int64_t>(i);
  fits = fits && (!x.has_batch() || permutation[0] == 0);
  if (!fits) {
    throw ArgumentError(
        attributes.operation(), "permutation",
        "each axis of " + to_string(x) + " once" + (x.has_batch() ? ", the batch first" : ""),
        to_string(Shape{std::span(permutation)
                            .first(std::min<std::size_t>(permutation.size(),
                                                         static_cast<std::size_t>(Shape::kMaxRank)))}));
  }
  const auto strides = strides_of(x);
  Shape out = x;
  std::vector<std::vector<std::int64_t>> offsets(permutation.size());
  for (int axis = 0; axis < x.rank(); ++axis) {
    const auto from = static_cast<int>(permutation[static_cast<std::size_t>(axis)]);
    out[axis] = x[from];
    for (std::int64_t i = 0; i < x[from]; ++i) {
      offsets[static_cast<std::size_t>(axis)].push_back(i * strides[static_cast<std::size_t>(from)]);
    }
  }
  return std::make_unique<Rearrangement>(x, out, std::move(offsets), 0.0F);
}

std::unique_ptr<Operator> make_slice(const Attributes& attributes, std::span<const Shape> inputs,
                                     const kernels::KernelTable&) {
  const Shape& x = inputs[0];
  const auto rank = static_cast<std::size_t>(x.rank());
  const auto starts = attributes.integers("starts");
  const auto sizes = attributes.integers("sizes");
  const auto steps = attributes.integers("steps", std::vector<std::int64_t>(rank, 1));
  check_length(attributes, "starts", starts.size(), rank);
  check_length(attributes, "sizes", sizes.size(), rank);
  check_length(attributes, "steps", steps.size(), rank);
  std::vector<std::vector<std::int64_t>> places(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::int64_t size = x[static_cast<int>(axis)];
    if (size == kBatch) {
      if (starts[axis] != 0 || sizes[axis] != kBatch || steps[axis] != 1) {
        throw ArgumentError(attributes.operation(), "starts", "the whole batch (start 0, size -1, step 1)",
                            "a part of it");
      }
      continue;
    }
    bool inside = sizes[axis] >= 0 && sizes[axis] <= size;
    if (inside && sizes[axis] > 0) inside = starts[axis] >= 0 && starts[axis] < size;
    if (inside && sizes[axis] > 1) {  // each step is now small enough for the product
      inside = steps[axis] > -size && steps[axis] < size;
      const std::int64_t last = inside ? starts[axis] + (sizes[axis] - 1) * steps[axis] : -1;
      inside = last >= 0 && last < size;
    }
    if (!inside) {
      throw ArgumentError(attributes.operation(), "sizes",
                          "elements inside axis " + std::to_string(axis) + " of " + to_string(x),
                          "start " + std::to_string(starts[axis]) + ", size " + std::to_string(sizes[axis]) +
                              ", step " + std::to_string(steps[axis]));
    }
    for (std::int64_t i = 0; i < sizes[axis]; ++i) places[axis].push_back(starts[axis] + i * steps[axis]);
  }
  return rearranged(x, std::move(places), 0.0F);
}

std::unique_ptr<Operator> make_pad(const Attributes& attributes, std::span<const Shape> inputs,
                                   const kernels::KernelTable&) {
  const Shape& x = inputs[0];
  const auto rank = static_cast<std::size_t>(x.rank());
  const auto pads = attributes.integers("pads");
  const std::string mode = attributes.text("mode", "constant");
  const auto value = static_cast<float>(attributes.number("value", 0.0));
  check_length(attributes, "pads", pads.size(), 2 * rank);
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") {
    throw ArgumentError(attributes.operation(), "mode", "constant, reflect, edge or wrap", "'" + mode + "'");
  }
  std::vector<std::vector<std::int64_t>> places(rank);
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::int64_t size = x[static_cast<int>(axis)];
    const std::int64_t begin = pads[axis];
    const std::int64_t end = pads[rank + axis];
    if (size == kBatch) {
      if (begin != 0 || end != 0) {
        throw ArgumentError(attributes.operation(), "pads", "0 for the batch", std::to_string(begin));
      }
      continue;
    }
    if (size + begin + end < 0 || (mode != "constant" && size == 0 && begin + end > 0)) {
      throw ArgumentError(attributes.operation(), "pads",
                          "pads that axis " + std::to_string(axis) + " of " + to_string(x) + " allows",
                          std::to_string(begin) + " and " + std::to_string(end));
    }
    for (std::int64_t i = 0; i < size + begin + end; ++i) {
      places[axis].push_back(padded_place(mode, i, begin, size));
    }
  }
  return rearranged(x, std::move(places), value);
}

}  // namespace pyconv
