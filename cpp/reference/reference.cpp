#include "reference/reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numbers>

#include "base/errors.h"

namespace pyconv::reference {

namespace {

using Integers = std::vector<std::int64_t>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// -- Elements by their indices -----------------------------------------------------------------

Tensor zeros(const Integers& sizes) {
  const Shape shape{std::span(sizes)};
  return {shape, std::vector<double>(static_cast<std::size_t>(shape.count()))};
}

std::size_t offset(const Shape& shape, const Integers& index) {
  std::int64_t place = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const std::int64_t i = index.at(static_cast<std::size_t>(axis));
    if (i < 0 || i >= shape[axis]) throw ArgumentError("reference: index out of range");
    place = place * shape[axis] + i;
  }
  return static_cast<std::size_t>(place);
}

double get(const Tensor& x, const Integers& index) { return x.values[offset(x.shape, index)]; }

// The same for the four axes of an image's tensor, without a list.
double get(const Tensor& x, std::int64_t n, std::int64_t i, std::int64_t j, std::int64_t c) {
  const std::int64_t place = ((n * x.shape[1] + i) * x.shape[2] + j) * x.shape[3] + c;
  return x.values.at(static_cast<std::size_t>(place));
}

double& element(Tensor& x, std::int64_t n, std::int64_t i, std::int64_t j, std::int64_t c) {
  const std::int64_t place = ((n * x.shape[1] + i) * x.shape[2] + j) * x.shape[3] + c;
  return x.values.at(static_cast<std::size_t>(place));
}

double get(const Array& array, std::int64_t place) {
  return static_cast<double>(array.values.at(static_cast<std::size_t>(place)));
}

Integers sizes_of(const Shape& shape) { return {shape.sizes().begin(), shape.sizes().end()}; }

// Every index of a shape in the order of the elements.
std::vector<Integers> indices(const Shape& shape) {
  std::vector<Integers> all = {{}};
  for (const std::int64_t size : shape.sizes()) {
    std::vector<Integers> longer;
    for (const Integers& index : all) {
      for (std::int64_t i = 0; i < size; ++i) {
        longer.push_back(index);
        longer.back().push_back(i);
      }
    }
    all = std::move(longer);
  }
  return all;
}

// A tensor whose element at each index is f(index).
Tensor tabulate(const Integers& sizes, const std::function<double(const Integers&)>& f) {
  Tensor y = zeros(sizes);
  std::size_t place = 0;
  for (const Integers& index : indices(y.shape)) y.values[place++] = f(index);
  return y;
}

void check_count(const Attributes& attributes, std::span<const Tensor> inputs, std::size_t count) {
  if (inputs.size() != count) {
    throw ArgumentError(attributes.operation(), "inputs", std::to_string(count),
                        std::to_string(inputs.size()));
  }
}

int axis_of(const Tensor& x, std::int64_t axis) {
  return static_cast<int>(axis < 0 ? axis + x.shape.rank() : axis);
}

// NaN, once met, stays.
double greater(double a, double b) { return std::isnan(a) || a > b ? a : b; }
double smaller(double a, double b) { return std::isnan(a) || a < b ? a : b; }

// -- Activation --------------------------------------------------------------------------------

double clip(double x, double lowest, double highest) { return smaller(greater(x, lowest), highest); }
double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double softplus(double x) { return x > 30.0 ? x : std::log1p(std::exp(x)); }

// x as a whole number of steps, ties to even, of the 256 from `below` of them below zero upwards.
double quantized(double x, double step, double below) {
  // The quotient is rounded to float32 first: near a tie its last bit decides, as ONNX computes it.
  const auto quotient = static_cast<double>(static_cast<float>(x) / static_cast<float>(step));
  return clip(std::nearbyint(quotient), -below, 255.0 - below);
}

double activated(double x, const Attributes& attributes) {
  const std::string name = attributes.text("activation", "linear");
  const auto alpha = [&](double otherwise) { return attributes.number("alpha", otherwise); };
  const auto beta = [&](double otherwise) { return attributes.number("beta", otherwise); };
  if (name == "linear") return x;
  if (name == "relu") return clip(x, alpha(0.0), beta(kInfinity));
  if (name == "relu6") return clip(x, alpha(0.0), beta(6.0));
  if (name == "clip") return clip(x, alpha(-kInfinity), beta(kInfinity));
  if (name == "leaky_relu") return x < 0.0 ? alpha(0.01) * x : x;
  if (name == "elu") return x < 0.0 ? alpha(1.0) * std::expm1(x) : x;
  if (name == "selu") return beta(1.05070102) * (x < 0.0 ? alpha(1.67326319) * std::expm1(x) : x);
  if (name == "sigmoid") return sigmoid(x);
  if (name == "tanh") return std::tanh(x);
  if (name == "softplus") return softplus(x);
  if (name == "softsign") return x / (1.0 + std::abs(x));
  if (name == "swish") return x * sigmoid(alpha(1.0) * x);
  if (name == "hard_sigmoid") return clip(alpha(0.2) * x + beta(0.5), 0.0, 1.0);
  if (name == "hard_swish") return x * clip(x / 6.0 + 0.5, 0.0, 1.0);
  if (name == "gelu") return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
  if (name == "gelu_tanh") {
    return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  if (name == "mish") return x * std::tanh(softplus(x));
  if (name == "exp") return std::exp(x);
  if (name == "log") return std::log(x);
  if (name == "sqrt") return std::sqrt(x);
  if (name == "abs") return std::abs(x);
  if (name == "negative") return -x;
  if (name == "reciprocal") return 1.0 / x;
  if (name == "erf") return std::erf(x);
  if (name == "quantize") return alpha(1.0) * quantized(x, alpha(1.0), beta(0.0));
  throw ArgumentError("reference: there is no activation '" + name + "'");
}

Tensor activation(const Attributes& attributes, std::span<const Tensor> inputs) {
  Tensor y = inputs[0];
  for (double& value : y.values) value = activated(value, attributes);
  return y;
}

// -- Convolution, pooling, dense ---------------------------------------------------------------

// How many windows fit when all of them must end inside the padded axis, by trying one after another.
std::int64_t whole_windows(std::int64_t padded, std::int64_t extent, std::int64_t stride) {
  std::int64_t count = 0;
  while (count * stride + extent <= padded) ++count;
  return count;
}

// How many windows an axis takes. With ceil_mode the windows go on until one reaches the end of the padded
// axis, but none begins behind the elements, in the padding at the end; a first one that is longer than the
// axis hangs over it by less than a stride.
std::int64_t windows(std::int64_t size, std::int64_t begin, std::int64_t end, std::int64_t extent,
                     std::int64_t stride, bool ceil_mode) {
  const std::int64_t whole = whole_windows(size + begin + end, extent, stride);
  if (!ceil_mode) return whole;
  if (whole == 0) return extent - (size + begin + end) < stride ? 1 : 0;
  const bool reaches_end = (whole - 1) * stride + extent == size + begin + end;
  const bool begins_inside = whole * stride < size + begin;
  return !reaches_end && begins_inside ? whole + 1 : whole;
}

Tensor fused_max_pool(const Tensor& x, const Integers& size, const Integers& strides) {
  const Shape& s = x.shape;
  Tensor y =
      zeros({s[0], whole_windows(s[1], size[0], strides[0]), whole_windows(s[2], size[1], strides[1]), s[3]});
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    for (std::int64_t i = 0; i < y.shape[1]; ++i) {
      for (std::int64_t j = 0; j < y.shape[2]; ++j) {
        for (std::int64_t c = 0; c < y.shape[3]; ++c) {
          double most = -kInfinity;
          for (std::int64_t u = 0; u < size[0]; ++u) {
            for (std::int64_t v = 0; v < size[1]; ++v) {
              most = greater(get(x, n, i * strides[0] + u, j * strides[1] + v, c), most);
            }
          }
          element(y, n, i, j, c) = most;
        }
      }
    }
  }
  return y;
}

Tensor conv2d(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Array& kernel = attributes.array("kernel");
  const Array* bias = attributes.optional_array("bias");
  const Integers strides = attributes.integers("strides", {1, 1});
  const Integers dilations = attributes.integers("dilations", {1, 1});
  const Integers pads = attributes.integers("pads", {0, 0, 0, 0});
  const std::int64_t groups = attributes.integer("groups", 1);

  const std::int64_t height = x.shape[1];
  const std::int64_t width = x.shape[2];
  const std::int64_t kernel_height = kernel.shape[0];
  const std::int64_t kernel_width = kernel.shape[1];
  const std::int64_t in_per_group = kernel.shape[2];
  const std::int64_t filters = kernel.shape[3];
  const std::int64_t filters_per_group = filters / groups;
  const std::int64_t extent_height = (kernel_height - 1) * dilations[0] + 1;
  const std::int64_t extent_width = (kernel_width - 1) * dilations[1] + 1;

  Tensor y = zeros({x.shape[0], whole_windows(height + pads[0] + pads[2], extent_height, strides[0]),
                    whole_windows(width + pads[1] + pads[3], extent_width, strides[1]), filters});
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    for (std::int64_t i = 0; i < y.shape[1]; ++i) {
      for (std::int64_t j = 0; j < y.shape[2]; ++j) {
        for (std::int64_t f = 0; f < filters; ++f) {
          const std::int64_t group = f / filters_per_group;
          double sum = bias == nullptr ? 0.0 : get(*bias, f);
          for (std::int64_t u = 0; u < kernel_height; ++u) {
            for (std::int64_t v = 0; v < kernel_width; ++v) {
              const std::int64_t row = i * strides[0] - pads[0] + u * dilations[0];
              const std::int64_t column = j * strides[1] - pads[1] + v * dilations[1];
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              for (std::int64_t c = 0; c < in_per_group; ++c) {
                const std::int64_t weight = ((u * kernel_width + v) * in_per_group + c) * filters + f;
                sum += get(x, n, row, column, group * in_per_group + c) * get(kernel, weight);
              }
            }
          }
          if (attributes.integer("residual", 0) != 0) sum += get(inputs[1], n, i, j, f);
          element(y, n, i, j, f) = activated(sum, attributes);
        }
      }
    }
  }
  if (!attributes.has("pool_size") && !attributes.has("pool_strides")) return y;
  return fused_max_pool(y, attributes.integers("pool_size", {1, 1}),
                        attributes.integers("pool_strides", {1, 1}));
}

Tensor pool2d(const Attributes& attributes, std::span<const Tensor> inputs) {
  const bool average = attributes.operation() == "average_pool2d";
  const Tensor& x = inputs[0];
  const Integers size = attributes.integers("kernel_size", {1, 1});
  const Integers strides = attributes.integers("strides", {1, 1});
  const Integers dilations = attributes.integers("dilations", {1, 1});
  const Integers pads = attributes.integers("pads", {0, 0, 0, 0});
  const bool ceil_mode = attributes.integer("ceil_mode", 0) != 0;
  const bool include_pad = attributes.integer("count_include_pad", 0) != 0;

  const std::int64_t height = x.shape[1];
  const std::int64_t width = x.shape[2];
  const std::int64_t extent_height = (size[0] - 1) * dilations[0] + 1;
  const std::int64_t extent_width = (size[1] - 1) * dilations[1] + 1;
  Tensor y = zeros({x.shape[0], windows(height, pads[0], pads[2], extent_height, strides[0], ceil_mode),
                    windows(width, pads[1], pads[3], extent_width, strides[1], ceil_mode), x.shape[3]});
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    for (std::int64_t i = 0; i < y.shape[1]; ++i) {
      for (std::int64_t j = 0; j < y.shape[2]; ++j) {
        for (std::int64_t c = 0; c < y.shape[3]; ++c) {
          double most = -kInfinity;
          double sum = 0.0;
          std::int64_t inside = 0;
          std::int64_t in_padded = 0;
          for (std::int64_t u = 0; u < size[0]; ++u) {
            for (std::int64_t v = 0; v < size[1]; ++v) {
              const std::int64_t row = i * strides[0] - pads[0] + u * dilations[0];
              const std::int64_t column = j * strides[1] - pads[1] + v * dilations[1];
              // With ceil_mode a window may hang over even the padding.
              if (row < height + pads[2] && column < width + pads[3]) ++in_padded;
              if (row < 0 || row >= height || column < 0 || column >= width) continue;
              ++inside;
              most = greater(get(x, n, row, column, c), most);
              sum += get(x, n, row, column, c);
            }
          }
          const std::int64_t count = include_pad ? in_padded : inside;
          const double mean = inside == 0 ? 0.0 : sum / static_cast<double>(count);
          element(y, n, i, j, c) = average ? mean : most;
        }
      }
    }
  }
  return y;
}

Tensor global_pool2d(const Attributes& attributes, std::span<const Tensor> inputs) {
  const bool average = attributes.operation() == "global_average_pool2d";
  const Tensor& x = inputs[0];
  const std::int64_t height = x.shape[1];
  const std::int64_t width = x.shape[2];
  Tensor y = zeros({x.shape[0], 1, 1, x.shape[3]});
  for (std::int64_t n = 0; n < x.shape[0]; ++n) {
    for (std::int64_t c = 0; c < x.shape[3]; ++c) {
      double most = -kInfinity;
      double sum = 0.0;
      for (std::int64_t i = 0; i < height; ++i) {
        for (std::int64_t j = 0; j < width; ++j) {
          most = greater(get(x, n, i, j, c), most);
          sum += get(x, n, i, j, c);
        }
      }
      element(y, n, 0, 0, c) = average ? sum / static_cast<double>(height * width) : most;
    }
  }
  return y;
}

// To eight significant bits, ties to even.
double bfloat16(double value) {
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8);
}

// What the storage leaves of a dense layer's weights.
std::vector<double> stored_weights(const Attributes& attributes, const Array& weights) {
  const std::string storage = attributes.text("storage", "float32");
  const Array* scales = attributes.optional_array("weight_scales");
  const std::int64_t in = weights.shape[0];
  const std::int64_t out = weights.shape[1];
  std::vector<double> stored;
  for (const float value : weights.values) {
    stored.push_back(storage == "bfloat16" ? bfloat16(static_cast<double>(value))
                                           : static_cast<double>(value));
  }
  if (storage != "int8") return stored;
  for (std::int64_t column = 0; column < out; ++column) {
    double most = 0.0;
    for (std::int64_t row = 0; row < in; ++row) {
      most = std::max(most, std::abs(get(weights, row * out + column)));
    }
    // In float32, as the operator has it, since a weight that lies between two steps goes by its last bit.
    float scale = most > 0.0 ? static_cast<float>(most) / 127.0F : 1.0F;
    if (scales != nullptr) scale = scales->values.at(static_cast<std::size_t>(column));
    for (std::int64_t row = 0; row < in; ++row) {
      double& value = stored.at(static_cast<std::size_t>(row * out + column));
      const auto steps = static_cast<double>(static_cast<float>(value) / scale);
      value = static_cast<double>(scale) * clip(std::nearbyint(steps), -128.0, 127.0);
    }
  }
  return stored;
}

Tensor conv2d_transpose(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Array& kernel = attributes.array("kernel");
  const Array* bias = attributes.optional_array("bias");
  const Integers strides = attributes.integers("strides", {1, 1});
  const Integers dilations = attributes.integers("dilations", {1, 1});
  const Integers pads = attributes.integers("pads", {0, 0, 0, 0});
  const Integers extra = attributes.integers("output_padding", {0, 0});
  const std::int64_t groups = attributes.integer("groups", 1);
  const std::int64_t in_per_group = kernel.shape[2];
  const std::int64_t filters = kernel.shape[3];
  Integers sizes = {x.shape[0], 0, 0, filters};
  for (std::size_t i = 0; i < 2; ++i) {
    const auto axis = static_cast<int>(i);
    sizes[i + 1] = (x.shape[axis + 1] - 1) * strides[i] + (kernel.shape[axis] - 1) * dilations[i] + 1 +
                   extra[i] - pads[i] - pads[i + 2];
  }
  Tensor y = zeros(sizes);
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    y.values[i] = bias == nullptr ? 0.0 : get(*bias, static_cast<std::int64_t>(i) % filters);
  }
  for (const Integers& index : indices(x.shape)) {
    const std::int64_t group = index[3] / in_per_group;
    const std::int64_t channel = index[3] % in_per_group;
    for (std::int64_t u = 0; u < kernel.shape[0]; ++u) {
      for (std::int64_t v = 0; v < kernel.shape[1]; ++v) {
        const std::int64_t row = index[1] * strides[0] + u * dilations[0] - pads[0];
        const std::int64_t column = index[2] * strides[1] + v * dilations[1] - pads[1];
        if (row < 0 || row >= sizes[1] || column < 0 || column >= sizes[2]) continue;
        for (std::int64_t f = group * filters / groups; f < (group + 1) * filters / groups; ++f) {
          const std::int64_t weight = ((u * kernel.shape[1] + v) * in_per_group + channel) * filters + f;
          element(y, index[0], row, column, f) += get(x, index) * get(kernel, weight);
        }
      }
    }
  }
  for (double& value : y.values) value = activated(value, attributes);
  return y;
}

Tensor max_pool2d_indices(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const bool by_columns = attributes.integer("storage_order", 0) != 0;
  const Tensor maxima = pool2d(attributes, inputs);
  const Integers size = attributes.integers("kernel_size", {1, 1});
  const Integers strides = attributes.integers("strides", {1, 1});
  const Integers dilations = attributes.integers("dilations", {1, 1});
  const Integers pads = attributes.integers("pads", {0, 0, 0, 0});
  return tabulate(sizes_of(maxima.shape), [&](const Integers& index) {
    for (std::int64_t u = 0; u < size[0]; ++u) {
      for (std::int64_t v = 0; v < size[1]; ++v) {
        const std::int64_t row = index[1] * strides[0] - pads[0] + u * dilations[0];
        const std::int64_t column = index[2] * strides[1] - pads[1] + v * dilations[1];
        if (row < 0 || row >= x.shape[1] || column < 0 || column >= x.shape[2]) continue;
        const double value = get(x, index[0], row, column, index[3]);
        const double most = get(maxima, index);
        if (value != most && !(std::isnan(value) && std::isnan(most))) continue;
        const std::int64_t plane = (index[0] * x.shape[3] + index[3]) * x.shape[1] * x.shape[2];
        return static_cast<double>(plane +
                                   (by_columns ? column * x.shape[1] + row : row * x.shape[2] + column));
      }
    }
    return 0.0;
  });
}

Tensor matmul(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 2);
  const Tensor& a = inputs[0];
  const Tensor& b = inputs[1];
  const int rank = std::max(a.shape.rank(), b.shape.rank());
  Integers sizes(static_cast<std::size_t>(rank), 1);
  for (const Tensor* operand : {&a, &b}) {
    for (int axis = 0; axis + 2 < operand->shape.rank(); ++axis) {
      std::int64_t& size = sizes[static_cast<std::size_t>(axis + rank - operand->shape.rank())];
      if (operand->shape[axis] != 1) size = operand->shape[axis];
    }
  }
  sizes.end()[-2] = a.shape[a.shape.rank() - 2];
  sizes.end()[-1] = b.shape[b.shape.rank() - 1];
  const auto value = [&](const Tensor& x, Integers index, std::int64_t row, std::int64_t column) {
    index.end()[-2] = row;
    index.end()[-1] = column;
    index.erase(index.begin(), index.end() - x.shape.rank());
    for (int axis = 0; axis + 2 < x.shape.rank(); ++axis) {
      if (x.shape[axis] == 1) index[static_cast<std::size_t>(axis)] = 0;
    }
    return get(x, index);
  };
  return tabulate(sizes, [&](const Integers& index) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < a.shape[a.shape.rank() - 1]; ++k) {
      sum += value(a, index, index.end()[-2], k) * value(b, index, k, index.end()[-1]);
    }
    return sum;
  });
}

Tensor dense(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Array& weights = attributes.array("weights");
  const Array* bias = attributes.optional_array("bias");
  const std::int64_t in = weights.shape[0];
  const std::int64_t out = weights.shape[1];
  const std::vector<double> stored = stored_weights(attributes, weights);
  const double x_scale = attributes.number("x_scale", 0.0);
  const auto x_below = static_cast<double>(attributes.integer("x_below", 0));
  Integers sizes = sizes_of(x.shape);
  sizes.back() = out;
  return tabulate(sizes, [&](const Integers& index) {
    const std::int64_t k = index.back();
    Integers from = index;
    double sum = bias == nullptr ? 0.0 : get(*bias, k);
    for (std::int64_t c = 0; c < in; ++c) {
      from.back() = c;
      const double from_x =
          x_scale > 0.0 ? x_scale * quantized(get(x, from), x_scale, x_below) : get(x, from);
      sum += from_x * stored.at(static_cast<std::size_t>(c * out + k));
    }
    return activated(sum, attributes);
  });
}

// -- Softmax, binaries, reductions -------------------------------------------------------------

Tensor softmax(const Attributes& attributes, std::span<const Tensor> inputs) {
  const bool logarithm = attributes.operation() == "log_softmax";
  const Tensor& x = inputs[0];
  const int axis = axis_of(x, attributes.integer("axis", -1));
  return tabulate(sizes_of(x.shape), [&](const Integers& index) {
    Integers other = index;
    std::int64_t& along = other.at(static_cast<std::size_t>(axis));
    double most = -kInfinity;
    for (along = 0; along < x.shape[axis]; ++along) most = greater(get(x, other), most);
    double sum = 0.0;
    for (along = 0; along < x.shape[axis]; ++along) sum += std::exp(get(x, other) - most);
    const double shifted = get(x, index) - most;
    return logarithm ? shifted - std::log(sum) : std::exp(shifted) / sum;
  });
}

double combined(const std::string& operation, double a, double b) {
  if (operation == "add") return a + b;
  if (operation == "subtract") return a - b;
  if (operation == "multiply") return a * b;
  if (operation == "divide") return a / b;
  if (operation == "maximum") return std::isnan(b) ? b : greater(a, b);
  if (operation == "minimum") return std::isnan(b) ? b : smaller(a, b);
  if (operation == "prelu") return a < 0.0 ? a * b : a;
  if (operation == "equal") return a == b;
  if (operation == "less") return a < b;
  if (operation == "less_or_equal") return a <= b;
  if (operation == "greater") return a > b;
  if (operation == "greater_or_equal") return a >= b;
  if (operation == "logical_and") return a != 0.0 && b != 0.0;
  if (operation == "logical_or") return a != 0.0 || b != 0.0;
  if (operation == "logical_xor") return (a != 0.0) != (b != 0.0);
  return std::pow(a, b);
}

Tensor binary(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 2);
  const Tensor& a = inputs[0];
  const Tensor& b = inputs[1];
  const int rank = std::max(a.shape.rank(), b.shape.rank());
  // The size of an operand's axis, counted in the axes of the output.
  const auto size = [rank](const Tensor& x, int axis) {
    const int own = axis - (rank - x.shape.rank());
    return own < 0 ? 1 : x.shape[own];
  };
  Integers sizes;
  for (int axis = 0; axis < rank; ++axis) sizes.push_back(size(a, axis) == 1 ? size(b, axis) : size(a, axis));
  const auto value = [&](const Tensor& x, const Integers& index) {
    Integers own;
    for (int axis = rank - x.shape.rank(); axis < rank; ++axis) {
      own.push_back(size(x, axis) == 1 ? 0 : index.at(static_cast<std::size_t>(axis)));
    }
    return get(x, own);
  };
  return tabulate(sizes, [&](const Integers& index) {
    return combined(attributes.operation(), value(a, index), value(b, index));
  });
}

Tensor reduce(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const std::string function = attributes.text("function", "mean");
  const bool keep = attributes.integer("keepdims", 1) != 0;
  std::vector<bool> is_reduced(static_cast<std::size_t>(x.shape.rank()));
  for (const std::int64_t axis : attributes.integers("axes")) {
    is_reduced.at(static_cast<std::size_t>(axis_of(x, axis))) = true;
  }
  Integers sizes;
  double count = 1.0;
  for (int axis = 0; axis < x.shape.rank(); ++axis) {
    const bool reduced = is_reduced[static_cast<std::size_t>(axis)];
    if (reduced) count *= static_cast<double>(x.shape[axis]);
    if (!reduced || keep) sizes.push_back(reduced ? 1 : x.shape[axis]);
  }
  Tensor y = zeros(sizes);
  if (function == "max") std::fill(y.values.begin(), y.values.end(), -kInfinity);
  if (function == "min") std::fill(y.values.begin(), y.values.end(), kInfinity);
  for (const Integers& index : indices(x.shape)) {
    Integers to;
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
      if (!is_reduced[axis] || keep) to.push_back(is_reduced[axis] ? 0 : index[axis]);
    }
    double& result = y.values[offset(y.shape, to)];
    const double value = get(x, index);
    if (function == "max") {
      result = std::isnan(result) ? result : greater(value, result);
    } else if (function == "min") {
      result = std::isnan(result) ? result : smaller(value, result);
    } else {
      result += value;
    }
  }
  if (function == "mean") {
    for (double& value : y.values) value /= count;
  }
  return y;
}

Tensor layer_normalization(const Attributes& attributes, std::span<const Tensor> inputs) {
  Tensor y = inputs[0];
  const int axis = axis_of(y, attributes.integer("axis", -1));
  const double epsilon = static_cast<double>(static_cast<float>(attributes.number("epsilon", 1e-5)));
  const Array* scale = attributes.optional_array("scale");
  const Array* bias = attributes.optional_array("bias");
  const auto count = static_cast<std::size_t>(y.shape.count(axis, y.shape.rank()));
  for (std::size_t begin = 0; begin < y.values.size(); begin += count) {
    double mean = 0.0;
    double variance = 0.0;
    for (std::size_t i = 0; i < count; ++i) mean += y.values[begin + i] / static_cast<double>(count);
    for (std::size_t i = 0; i < count; ++i) {
      const double difference = y.values[begin + i] - mean;
      variance += difference * difference / static_cast<double>(count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto place = static_cast<std::int64_t>(i);
      double& value = y.values[begin + i];
      value = (value - mean) / std::sqrt(variance + epsilon) * (scale == nullptr ? 1.0 : get(*scale, place)) +
              (bias == nullptr ? 0.0 : get(*bias, place));
    }
  }
  return y;
}

Tensor local_response_normalization(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const std::int64_t size = attributes.integer("size", 5);
  const double alpha = attributes.number("alpha", 1e-4);
  const double beta = attributes.number("beta", 0.75);
  const double bias = attributes.number("bias", 1.0);
  return tabulate(sizes_of(x.shape), [&](const Integers& index) {
    Integers other = index;
    double sum = 0.0;
    for (std::int64_t k = index.back() - (size - 1) / 2; k <= index.back() + size / 2; ++k) {
      other.back() = k;
      if (k >= 0 && k < x.shape[x.shape.rank() - 1]) sum += get(x, other) * get(x, other);
    }
    return get(x, index) / std::pow(bias + alpha / static_cast<double>(size) * sum, beta);
  });
}

Tensor resample(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Array& weights = attributes.array("weights");
  const Integers places = attributes.integers("indices");
  const auto axis = static_cast<std::size_t>(axis_of(x, attributes.integer("axis", -1)));
  Integers sizes = sizes_of(x.shape);
  sizes.at(axis) = weights.shape[0];
  return tabulate(sizes, [&](const Integers& index) {
    Integers from = index;
    double sum = 0.0;
    for (std::int64_t t = 0; t < weights.shape[1]; ++t) {
      const std::int64_t place = index[axis] * weights.shape[1] + t;
      from[axis] = places.at(static_cast<std::size_t>(place));
      if (from[axis] == -1) return attributes.number("fill", 0.0);
      if (get(weights, place) != 0.0) sum += get(weights, place) * get(x, from);
    }
    return sum;
  });
}

Tensor arg_extreme(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const double sign = attributes.operation() == "arg_max" ? 1.0 : -1.0;
  const bool last = attributes.integer("select_last_index", 0) != 0;
  const auto axis = static_cast<std::size_t>(axis_of(x, attributes.integer("axis", 0)));
  const bool keep = attributes.integer("keepdims", 1) != 0;
  Integers sizes = sizes_of(x.shape);
  sizes[axis] = 1;
  Tensor y = tabulate(sizes, [&](const Integers& index) {
    Integers from = index;
    std::vector<double> along;
    for (from[axis] = 0; from[axis] < x.shape[static_cast<int>(axis)]; ++from[axis]) {
      const double value = sign * get(x, from);
      along.push_back(std::isnan(value) ? kInfinity : value);  // the tests have no NaN beside infinity
    }
    const auto most = last ? std::prev(std::max_element(along.rbegin(), along.rend()).base())
                           : std::max_element(along.begin(), along.end());
    return static_cast<double>(most - along.begin());
  });
  if (!keep) sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(axis));
  y.shape = Shape{std::span<const std::int64_t>(sizes)};
  return y;
}

// -- Moving elements ---------------------------------------------------------------------------

Tensor concat(const Attributes& attributes, std::span<const Tensor> inputs) {
  const int axis = axis_of(inputs[0], attributes.integer("axis", 0));
  const auto place = static_cast<std::size_t>(axis);
  Integers sizes = sizes_of(inputs[0].shape);
  sizes.at(place) = 0;
  for (const Tensor& input : inputs) sizes.at(place) += input.shape[axis];
  return tabulate(sizes, [&](const Integers& index) {
    Integers from = index;
    std::size_t input = 0;
    while (from.at(place) >= inputs[input].shape[axis]) from.at(place) -= inputs[input++].shape[axis];
    return get(inputs[input], from);
  });
}

Tensor transpose(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Integers permutation = attributes.integers("permutation");
  Integers sizes;
  for (const std::int64_t axis : permutation) sizes.push_back(x.shape[static_cast<int>(axis)]);
  return tabulate(sizes, [&](const Integers& index) {
    Integers from(index.size());
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
      from.at(static_cast<std::size_t>(permutation[axis])) = index[axis];
    }
    return get(x, from);
  });
}

Tensor reshape(const Attributes& attributes, std::span<const Tensor> inputs) {
  Integers sizes = attributes.integers("shape");
  std::int64_t known = 1;
  for (const std::int64_t size : sizes) known *= size == -1 ? 1 : size;
  for (std::int64_t& size : sizes) {
    if (size == -1) size = static_cast<std::int64_t>(inputs[0].values.size()) / known;
  }
  return {Shape{std::span<const std::int64_t>(sizes)}, inputs[0].values};
}

Tensor slice(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Integers starts = attributes.integers("starts");
  const Integers steps = attributes.integers("steps", Integers(starts.size(), 1));
  return tabulate(attributes.integers("sizes"), [&](const Integers& index) {
    Integers from;
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
      from.push_back(starts.at(axis) + index[axis] * steps.at(axis));
    }
    return get(x, from);
  });
}

// Where an element outside an axis of `size` comes from, found by walking; -1 where it is a constant.
std::int64_t source(std::int64_t place, std::int64_t size, const std::string& mode) {
  while (place < 0 || place >= size) {
    if (mode == "constant") return -1;
    if (mode == "edge") {
      place = place < 0 ? 0 : size - 1;
    } else if (mode == "wrap") {
      place += place < 0 ? size : -size;
    } else if (size == 1) {
      place = 0;
    } else {
      place = place < 0 ? -place : 2 * (size - 1) - place;
    }
  }
  return place;
}

Tensor pad(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Integers pads = attributes.integers("pads");
  const std::string mode = attributes.text("mode", "constant");
  // The value as float32, as the operator has it.
  const auto value = static_cast<double>(static_cast<float>(attributes.number("value", 0.0)));
  const auto rank = static_cast<std::size_t>(x.shape.rank());
  Integers sizes = sizes_of(x.shape);
  for (std::size_t axis = 0; axis < rank; ++axis) sizes[axis] += pads.at(axis) + pads.at(rank + axis);
  return tabulate(sizes, [&](const Integers& index) {
    Integers from;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      from.push_back(source(index[axis] - pads[axis], x.shape[static_cast<int>(axis)], mode));
      if (from.back() < 0) return value;
    }
    return get(x, from);
  });
}

Tensor take(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Integers axes = attributes.integers("axes");
  const Integers counts = attributes.integers("sizes");
  const Integers chosen = attributes.integers("indices");
  Integers sizes = sizes_of(x.shape);
  std::vector<Integers> places(sizes.size());  // empty where all of the axis is taken
  auto next = chosen.begin();
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<std::size_t>(axis_of(x, axes[i]));
    sizes.at(axis) = counts.at(i);
    places.at(axis) = Integers(next, next + counts[i]);
    next += counts[i];
  }
  return tabulate(sizes, [&](const Integers& index) {
    Integers from = index;
    for (std::size_t axis = 0; axis < from.size(); ++axis) {
      if (!places[axis].empty()) from[axis] = places[axis].at(static_cast<std::size_t>(index[axis]));
    }
    return get(x, from);
  });
}

Tensor gather(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 2);
  const Tensor& x = inputs[0];
  const Tensor& places = inputs[1];
  const auto axis = static_cast<std::size_t>(axis_of(x, attributes.integer("axis", 0)));
  const std::int64_t size = x.shape[static_cast<int>(axis)];
  Integers sizes = sizes_of(x.shape);
  const Integers inserted = sizes_of(places.shape);
  sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(axis));
  sizes.insert(sizes.begin() + static_cast<std::ptrdiff_t>(axis), inserted.begin(), inserted.end());
  return tabulate(sizes, [&](const Integers& index) {
    const auto begin = index.begin() + static_cast<std::ptrdiff_t>(axis);
    const auto end = begin + static_cast<std::ptrdiff_t>(inserted.size());
    auto place = static_cast<std::int64_t>(get(places, Integers(begin, end)));
    if (place < 0) place += size;
    Integers from(index.begin(), begin);
    from.push_back(std::min(std::max<std::int64_t>(place, 0), size - 1));
    from.insert(from.end(), end, index.end());
    return get(x, from);
  });
}

// The element of `x` that broadcasting gives at an index of the result.
double broadcast_element(const Tensor& x, const Integers& index) {
  Integers own(index.end() - x.shape.rank(), index.end());
  for (int axis = 0; axis < x.shape.rank(); ++axis) {
    if (x.shape[axis] == 1) own[static_cast<std::size_t>(axis)] = 0;
  }
  return get(x, own);
}

Tensor where(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 3);
  int rank = 0;
  for (const Tensor& input : inputs) rank = std::max(rank, input.shape.rank());
  Integers sizes(static_cast<std::size_t>(rank), 1);
  for (const Tensor& input : inputs) {
    for (int axis = 0; axis < input.shape.rank(); ++axis) {
      std::int64_t& size = sizes[static_cast<std::size_t>(axis + rank - input.shape.rank())];
      if (input.shape[axis] != 1) size = input.shape[axis];
    }
  }
  return tabulate(sizes, [&](const Integers& index) {
    return broadcast_element(inputs[broadcast_element(inputs[0], index) != 0.0 ? 1 : 2], index);
  });
}

Tensor patches(const Attributes& attributes, std::span<const Tensor> inputs) {
  const Tensor& x = inputs[0];
  const Integers kernel = attributes.integers("kernel_size", {1, 1});
  const Integers strides = attributes.integers("strides", {1, 1});
  const Integers dilations = attributes.integers("dilations", {1, 1});
  const std::int64_t rows = whole_windows(x.shape[1], (kernel[0] - 1) * dilations[0] + 1, strides[0]);
  const std::int64_t columns = whole_windows(x.shape[2], (kernel[1] - 1) * dilations[1] + 1, strides[1]);
  return tabulate({x.shape[0], rows, columns, kernel[0], kernel[1], x.shape[3]}, [&](const Integers& index) {
    return get(x, index[0], index[1] * strides[0] + index[3] * dilations[0],
               index[2] * strides[1] + index[4] * dilations[1], index[5]);
  });
}

// -- Element types -----------------------------------------------------------------------------

// A real number as the nearest that an integer dtype has, after whatever rounding.
double saturated(double x, DType dtype) {
  return with_type(dtype, [x]<class T>() {
    return clip(x, static_cast<double>(std::numeric_limits<T>::lowest()),
                static_cast<double>(std::numeric_limits<T>::max()));
  });
}

Tensor cast(const Attributes& attributes, std::span<const Tensor> inputs) {
  Tensor y = inputs[0];
  y.dtype = parse_dtype("reference", attributes.text("dtype", "float32"));
  for (double& value : y.values) {
    if (y.dtype == DType::kBool) {
      value = value != 0.0;
    } else if (y.dtype == DType::kFloat32) {
      value = static_cast<double>(static_cast<float>(value));
    } else if (y.dtype != DType::kFloat64) {
      value = std::isnan(value) ? 0.0 : saturated(std::trunc(value), y.dtype);
    }
  }
  return y;
}

// The element of `parameter` that broadcasting gives to each element of x.
Tensor spread(const Tensor& parameter, const Tensor& x) {
  return tabulate(sizes_of(x.shape),
                  [&](const Integers& index) { return broadcast_element(parameter, index); });
}

Tensor quantize(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 3);
  const Tensor scale = spread(inputs[1], inputs[0]);
  const Tensor zero_point = spread(inputs[2], inputs[0]);
  Tensor y = inputs[0];
  y.dtype = inputs[2].dtype;
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    // As float32, in which ONNX divides: whether a quotient is a half must not depend on the precision.
    const float quotient = static_cast<float>(y.values[i]) / static_cast<float>(scale.values[i]);
    y.values[i] = saturated(std::nearbyint(static_cast<double>(quotient)) + zero_point.values[i], y.dtype);
  }
  return y;
}

Tensor dequantize(const Attributes& attributes, std::span<const Tensor> inputs) {
  check_count(attributes, inputs, 3);
  const Tensor scale = spread(inputs[1], inputs[0]);
  const Tensor zero_point = spread(inputs[2], inputs[0]);
  Tensor y = inputs[0];
  y.dtype = DType::kFloat32;
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    y.values[i] = (y.values[i] - zero_point.values[i]) * scale.values[i];
  }
  return y;
}

}  // namespace

Tensor run(const Attributes& attributes, std::span<const Tensor> inputs) {
  using Function = Tensor (*)(const Attributes&, std::span<const Tensor>);
  static const std::map<std::string, Function> functions = {
      {"activation", activation},
      {"add", binary},
      {"arg_max", arg_extreme},
      {"arg_min", arg_extreme},
      {"average_pool2d", pool2d},
      {"cast", cast},
      {"concat", concat},
      {"conv2d", conv2d},
      {"conv2d_transpose", conv2d_transpose},
      {"dense", dense},
      {"dequantize", dequantize},
      {"divide", binary},
      {"equal", binary},
      {"gather", gather},
      {"global_average_pool2d", global_pool2d},
      {"global_max_pool2d", global_pool2d},
      {"greater", binary},
      {"greater_or_equal", binary},
      {"layer_normalization", layer_normalization},
      {"less", binary},
      {"less_or_equal", binary},
      {"local_response_normalization", local_response_normalization},
      {"log_softmax", softmax},
      {"logical_and", binary},
      {"logical_or", binary},
      {"logical_xor", binary},
      {"matmul", matmul},
      {"max_pool2d", pool2d},
      {"max_pool2d_indices", max_pool2d_indices},
      {"maximum", binary},
      {"minimum", binary},
      {"multiply", binary},
      {"pad", pad},
      {"patches", patches},
      {"power", binary},
      {"prelu", binary},
      {"quantize", quantize},
      {"reduce", reduce},
      {"resample", resample},
      {"reshape", reshape},
      {"slice", slice},
      {"softmax", softmax},
      {"subtract", binary},
      {"take", take},
      {"transpose", transpose},
      {"where", where},
  };
  const auto found = functions.find(attributes.operation());
  if (found == functions.end()) {
    throw ArgumentError("reference: there is no operator '" + attributes.operation() + "'");
  }
  if (inputs.empty()) check_count(attributes, inputs, 1);
  return found->second(attributes, inputs);
}

}  // namespace pyconv::reference
