#include "ops/movement.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <numeric>
#include <optional>

#include "base/errors.h"
#include "ops/axes.h"
#include "ops/window.h"

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
  using Offsets = std::vector<std::int64_t>;

  // offsets[0] is not looked at where out has the batch: images then keep their places.
  Rearrangement(const TensorType& x, const Shape& out, std::vector<Offsets> offsets, double fill)
      : fill_(fill), image_elements_(x.shape.count_per_image()) {
    output_shape_ = out;
    output_dtype_ = x.dtype;
    const auto first = offsets.begin() + (out.has_batch() ? 1 : 0);
    outer_.assign(std::make_move_iterator(first), std::make_move_iterator(offsets.end()));
    // A scalar, or only a batch, has one inner row of a single element.
    if (!outer_.empty()) {
      inner_ = std::move(outer_.back());
      outer_.pop_back();
    }
    while (!outer_.empty() && is_run(inner_, 1) &&
           is_run(outer_.back(), static_cast<std::int64_t>(inner_.size()))) {
      const std::int64_t begin = inner_[0] + outer_.back()[0];
      inner_.resize(inner_.size() * outer_.back().size());
      std::iota(inner_.begin(), inner_.end(), begin);
      outer_.pop_back();
    }
    contiguous_ = is_run(inner_, 1);
    for (const Offsets& along : outer_) rows_ *= static_cast<std::int64_t>(along.size());
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return inner_.empty() ? 0 : rows_ * (output_shape_.has_batch() ? output.shape[0] : 1);
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    if (range.begin == range.end) return;
    switch (size_of(output.dtype)) {
      case 1:
        return move_rows<std::uint8_t>(inputs[0], output, range);
      case 2:
        return move_rows<std::uint16_t>(inputs[0], output, range);
      case 4:
        return move_rows<std::uint32_t>(inputs[0], output, range);
      default:
        return move_rows<std::uint64_t>(inputs[0], output, range);
    }
  }

  std::string algorithm() const override { return "copy"; }

 private:
  // Whether the offsets are begin, begin + step, begin + 2 step and so on.
  static bool is_run(const Offsets& offsets, std::int64_t step) {
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      if (offsets[i] == kOutside || offsets[i] != offsets[0] + static_cast<std::int64_t>(i) * step)
        return false;
    }
    return !offsets.empty();
  }

  // The bits of `fill` as an element.
  template <class Bits>
  Bits fill_bits() const {
    return with_type(output_dtype_, [&]<class T>() {
      Bits bits{};
      if constexpr (sizeof(T) == sizeof(Bits)) {
        const T value = static_cast<T>(fill_);
        std::memcpy(&bits, &value, sizeof(Bits));
      }
      return bits;
    });
  }

  template <class Bits>
  void move_rows(const ConstTensor& x, const Tensor& output, UnitRange range) const {
    const auto count = static_cast<std::int64_t>(inner_.size());
    const Bits fill = fill_bits<Bits>();
    const std::size_t rank = outer_.size();
    std::array<std::size_t, Shape::kMaxRank> index{};  // of the row in its image, axis by axis
    std::int64_t rest = range.begin;
    for (std::size_t axis = rank; axis-- > 0;) {
      const auto size = static_cast<std::int64_t>(outer_[axis].size());
      index[axis] = static_cast<std::size_t>(rest % size);
      rest /= size;
    }
    const Bits* image = x.as<Bits>() + rest * image_elements_;
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      Bits* y = output.as<Bits>() + unit * count;
      std::int64_t offset = 0;
      bool outside = false;
      for (std::size_t axis = 0; axis < rank; ++axis) {
        const std::int64_t part = outer_[axis][index[axis]];
        outside |= part == kOutside;
        offset += part;
      }
      if (outside) {
        std::fill_n(y, count, fill);
      } else if (contiguous_) {
        std::copy_n(image + offset + inner_[0], count, y);
      } else {
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t from = inner_[static_cast<std::size_t>(i)];
          y[i] = from == kOutside ? fill : image[offset + from];
        }
      }
      std::size_t axis = rank;
      while (axis > 0 && ++index[axis - 1] == outer_[axis - 1].size()) index[--axis] = 0;
      if (axis == 0) image += image_elements_;
    }
  }

  std::vector<Offsets> outer_;  // of the axes before the last, the batch left out
  Offsets inner_{0};            // of the last axis
  bool contiguous_;
  double fill_;
  std::int64_t rows_ = 1;  // of an image
  std::int64_t image_elements_;
};

// x (…, rows, columns) → (…, columns, rows), where rows and columns may each be several axes: how an image
// comes from channels first to channels last.
class MatrixTranspose final : public Operator {
 public:
  // Axes [0, first) stay, [first, second) and [second, rank) change places.
  MatrixTranspose(const Shape& x, const Shape& out, int first, int second,
                  const kernels::KernelTable& kernels)
      : first_(first), rows_(x.count(first, second)), columns_(x.count(second, x.rank())), kernels_(kernels) {
    output_shape_ = out;
  }

  // A unit is a block of columns of one matrix.
  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count(0, first_) * blocks();
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      const std::int64_t matrix = unit / blocks() * rows_ * columns_;
      const std::int64_t column = unit % blocks() * kBlockColumns;
      kernels_.transpose(inputs[0].data + matrix + column, columns_, rows_,
                         std::min(kBlockColumns, columns_ - column), output.data + matrix + column * rows_,
                         rows_);
    }
  }

  std::string algorithm() const override { return "transpose"; }

 private:
  static constexpr std::int64_t kBlockColumns = 64;
  std::int64_t blocks() const { return (columns_ + kBlockColumns - 1) / kBlockColumns; }

  int first_;
  std::int64_t rows_, columns_;
  const kernels::KernelTable& kernels_;
};

// Whether a permutation lets axes [0, first) stay and exchanges [first, second) with those after them, as
// {first, second}.
std::optional<std::array<int, 2>> exchanged_axes(std::span<const std::int64_t> permutation) {
  const auto rank = static_cast<int>(permutation.size());
  int first = 0;
  while (first < rank && permutation[static_cast<std::size_t>(first)] == first) ++first;
  if (first == rank) return std::nullopt;
  const auto second = static_cast<int>(permutation[static_cast<std::size_t>(first)]);
  for (int axis = first; axis < rank; ++axis) {
    const int from = first + (axis - first + second - first) % (rank - first);
    if (permutation[static_cast<std::size_t>(axis)] != from) return std::nullopt;
  }
  return std::array<int, 2>{first, second};
}

class Concat final : public Operator {
 public:
  Concat(const Attributes& attributes, std::span<const TensorType> inputs) {
    axis_ = parse_axis(attributes, inputs[0].shape, 0);
    output_shape_ = inputs[0].shape;
    output_dtype_ = inputs[0].dtype;
    for (const auto& [shape, dtype] : inputs.subspan(1)) {
      Shape expected = inputs[0].shape;
      if (shape.rank() == expected.rank()) expected[axis_] = shape[axis_];
      if (shape != expected) {
        throw ArgumentError(attributes.operation(), "inputs",
                            "shapes alike but for axis " + std::to_string(axis_),
                            to_string(inputs[0].shape) + " and " + to_string(shape));
      }
      if (dtype != output_dtype_) {
        throw ArgumentError(attributes.operation(), "inputs", "one dtype",
                            to_string(output_dtype_) + " and " + to_string(dtype));
      }
      output_shape_[axis_] += shape[axis_];
    }
    const auto bytes = static_cast<std::int64_t>(size_of(output_dtype_));
    for (const auto& [shape, dtype] : inputs) rows_.push_back(bytes * shape.count(axis_, shape.rank()));
    row_ = bytes * output_shape_.count(axis_, output_shape_.rank());
  }

  std::int64_t units(std::span<const ConstTensor>, const Tensor& output) const override {
    return output.shape.count(0, axis_);
  }

  void run(std::span<const ConstTensor> inputs, const Tensor& output, UnitRange range,
           float*) const override {
    for (std::int64_t unit = range.begin; unit < range.end; ++unit) {
      auto* y = output.as<std::byte>() + unit * row_;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        y = std::copy_n(inputs[i].as<std::byte>() + unit * rows_[i], rows_[i], y);
      }
    }
  }

  std::string algorithm() const override { return "copy"; }

 private:
  int axis_;
  std::int64_t row_;                // bytes of the output in the axis and all after it
  std::vector<std::int64_t> rows_;  // of each input
};

class Reshape final : public Operator {
 public:
  Reshape(const Attributes& attributes, const TensorType& input) {
    const Shape& x = input.shape;
    output_dtype_ = input.dtype;
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
    if (range.begin == range.end) return;
    const std::int64_t bytes = static_cast<std::int64_t>(size_of(output.dtype)) * output.shape.count();
    std::copy_n(inputs[0].as<std::byte>(), bytes, output.as<std::byte>());
  }

  std::string algorithm() const override { return "view"; }
  bool is_view() const override { return true; }
};

// The places that each axis of the output takes along the same axis of x, turned into offsets.
std::unique_ptr<Operator> rearranged(const TensorType& input, std::vector<std::vector<std::int64_t>> places,
                                     double fill) {
  const Shape& x = input.shape;
  const auto strides = strides_of(x);
  Shape out = x;
  for (int axis = x.has_batch() ? 1 : 0; axis < x.rank(); ++axis) {
    auto& along = places[static_cast<std::size_t>(axis)];
    out[axis] = static_cast<std::int64_t>(along.size());
    for (std::int64_t& place : along) {
      if (place != Rearrangement::kOutside) place *= strides[static_cast<std::size_t>(axis)];
    }
  }
  return std::make_unique<Rearrangement>(input, out, std::move(places), fill);
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

std::unique_ptr<Operator> make_concat(const Attributes& attributes, std::span<const TensorType> inputs,
                                      const kernels::KernelTable&) {
  return std::make_unique<Concat>(attributes, inputs);
}

std::unique_ptr<Operator> make_reshape(const Attributes& attributes, std::span<const TensorType> inputs,
                                       const kernels::KernelTable&) {
  return std::make_unique<Reshape>(attributes, inputs[0]);
}

std::unique_ptr<Operator> make_transpose(const Attributes& attributes, std::span<const TensorType> inputs,
                                         const kernels::KernelTable& kernels) {
  const Shape& x = inputs[0].shape;
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
  if (const auto axes = exchanged_axes(permutation);
      axes && x.count_per_image() > 0 && inputs[0].dtype == DType::kFloat32) {
    return std::make_unique<MatrixTranspose>(x, out, (*axes)[0], (*axes)[1], kernels);
  }
  return std::make_unique<Rearrangement>(inputs[0], out, std::move(offsets), 0.0);
}

std::unique_ptr<Operator> make_slice(const Attributes& attributes, std::span<const TensorType> inputs,
                                     const kernels::KernelTable&) {
  const Shape& x = inputs[0].shape;
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
  return rearranged(inputs[0], std::move(places), 0.0);
}

std::unique_ptr<Operator> make_pad(const Attributes& attributes, std::span<const TensorType> inputs,
                                   const kernels::KernelTable&) {
  const Shape& x = inputs[0].shape;
  const auto rank = static_cast<std::size_t>(x.rank());
  const auto pads = attributes.integers("pads");
  const std::string mode = attributes.text("mode", "constant");
  const double value = attributes.number("value", 0.0);
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
  return rearranged(inputs[0], std::move(places), value);
}

std::unique_ptr<Operator> make_take(const Attributes& attributes, std::span<const TensorType> inputs,
                                    const kernels::KernelTable&) {
  const Shape& x = inputs[0].shape;
  const auto axes = attributes.integers("axes");
  const auto sizes = attributes.integers("sizes");
  const auto indices = attributes.integers("indices");
  check_length(attributes, "sizes", sizes.size(), axes.size());
  std::vector<std::vector<std::int64_t>> places(static_cast<std::size_t>(x.rank()));
  for (int axis = x.has_batch() ? 1 : 0; axis < x.rank(); ++axis) {
    auto& along = places[static_cast<std::size_t>(axis)];
    along.resize(static_cast<std::size_t>(x[axis]));
    std::iota(along.begin(), along.end(), 0);
  }
  std::size_t used = 0;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int axis = parse_axis(attributes, x, "axes", axes[i]);
    const auto count = static_cast<std::size_t>(sizes[i]);
    if (sizes[i] < 0 || count > indices.size() - used) {
      throw ArgumentError(attributes.operation(), "indices", "as many as `sizes` say",
                          std::to_string(indices.size()));
    }
    const auto begin = indices.begin() + static_cast<std::ptrdiff_t>(used);
    used += count;
    const std::vector<std::int64_t> along(begin, begin + static_cast<std::ptrdiff_t>(count));
    for (const std::int64_t place : along) {
      if (place < 0 || place >= x[axis]) {
        throw ArgumentError(attributes.operation(), "indices",
                            "places in axis " + std::to_string(axis) + " of " + to_string(x),
                            std::to_string(place));
      }
    }
    places[static_cast<std::size_t>(axis)] = along;
  }
  check_length(attributes, "indices", indices.size(), used);
  return rearranged(inputs[0], std::move(places), 0.0);
}

std::unique_ptr<Operator> make_patches(const Attributes& attributes, std::span<const TensorType> inputs,
                                       const kernels::KernelTable&) {
  const Shape& x = inputs[0].shape;
  if (x.rank() != 4) {
    throw ArgumentError(attributes.operation(), "x", "shape (n, height, width, channels)", to_string(x));
  }
  const auto kernel = parse_pair(attributes, "kernel_size", 1);
  const auto strides = parse_pair(attributes, "strides", 1);
  const auto dilations = parse_pair(attributes, "dilations", 1);
  const Window2d window{{kernel[0], strides[0], dilations[0], 0, 0},
                        {kernel[1], strides[1], dilations[1], 0, 0}};
  const auto map = window.output_size(attributes.operation(), x[1], x[2]);
  const auto spaced = [](std::int64_t count, std::int64_t step) {
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) offsets[static_cast<std::size_t>(i)] = i * step;
    return offsets;
  };
  const std::int64_t row = x[2] * x[3];
  return std::make_unique<Rearrangement>(
      inputs[0], Shape{x[0], map[0], map[1], kernel[0], kernel[1], x[3]},
      std::vector<std::vector<std::int64_t>>{
          x.has_batch() ? std::vector<std::int64_t>{} : spaced(x[0], x.count(1, 4)),
          spaced(map[0], strides[0] * row), spaced(map[1], strides[1] * x[3]),
          spaced(kernel[0], dilations[0] * row), spaced(kernel[1], dilations[1] * x[3]), spaced(x[3], 1)},
      0.0);
}

}  // namespace pyconv
