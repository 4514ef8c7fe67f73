#include "ops/operator.h"

#include <algorithm>
#include <map>
#include <variant>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/binary.h"
#include "ops/cast.h"
#include "ops/conv2d/conv2d.h"
#include "ops/conv2d_transpose.h"
#include "ops/dense.h"
#include "ops/matmul.h"
#include "ops/max_pool2d_indices.h"
#include "ops/movement.h"
#include "ops/normalization.h"
#include "ops/pool2d.h"
#include "ops/quantization.h"
#include "ops/reduce.h"
#include "ops/resample.h"
#include "ops/selection.h"
#include "ops/softmax.h"

namespace pyconv {

namespace {

// Of an operator that knows float32 alone, and of one that is told what its inputs hold.
using FloatFactory = std::unique_ptr<Operator> (*)(const Attributes&, std::span<const Shape>,
                                                   const kernels::KernelTable&);
using TypedFactory = std::unique_ptr<Operator> (*)(const Attributes&, std::span<const TensorType>,
                                                   const kernels::KernelTable&);

constexpr std::size_t kAnyNumber = 0;

struct Entry {
  std::size_t inputs;  // how many, or kAnyNumber
  std::variant<FloatFactory, TypedFactory> make;
  std::size_t optional = 0;  // how many more may follow
};

// Every operator, once.
const std::map<std::string, Entry>& registry() {
  static const std::map<std::string, Entry> table = {
      {"activation", {1, make_activation}},
      {"add", {2, make_binary}},
      {"arg_max", {1, make_arg_extreme}},
      {"arg_min", {1, make_arg_extreme}},
      {"average_pool2d", {1, make_average_pool2d}},
      {"cast", {1, make_cast}},
      {"concat", {kAnyNumber, make_concat}},
      {"conv2d", {1, make_conv2d, 1}},
      {"conv2d_transpose", {1, make_conv2d_transpose}},
      {"dense", {1, make_dense}},
      {"dequantize", {3, make_dequantize}},
      {"divide", {2, make_binary}},
      {"equal", {2, make_comparison}},
      {"gather", {2, make_gather}},
      {"global_average_pool2d", {1, make_global_average_pool2d}},
      {"global_max_pool2d", {1, make_global_max_pool2d}},
      {"greater", {2, make_comparison}},
      {"greater_or_equal", {2, make_comparison}},
      {"layer_normalization", {1, make_layer_normalization}},
      {"less", {2, make_comparison}},
      {"less_or_equal", {2, make_comparison}},
      {"local_response_normalization", {1, make_local_response_normalization}},
      {"log_softmax", {1, make_softmax}},
      {"logical_and", {2, make_comparison}},
      {"logical_or", {2, make_comparison}},
      {"logical_xor", {2, make_comparison}},
      {"matmul", {2, make_matmul}},
      {"max_pool2d", {1, make_max_pool2d}},
      {"max_pool2d_indices", {1, make_max_pool2d_indices}},
      {"maximum", {2, make_binary}},
      {"minimum", {2, make_binary}},
      {"multiply", {2, make_binary}},
      {"pad", {1, make_pad}},
      {"patches", {1, make_patches}},
      {"power", {2, make_binary}},
      {"prelu", {2, make_prelu}},
      {"quantize", {3, make_quantize}},
      {"reduce", {1, make_reduce}},
      {"resample", {1, make_resample}},
      {"reshape", {1, make_reshape}},
      {"slice", {1, make_slice}},
      {"softmax", {1, make_softmax}},
      {"subtract", {2, make_binary}},
      {"take", {1, make_take}},
      {"transpose", {1, make_transpose}},
      {"where", {3, make_where}},
  };
  return table;
}

// The shapes of inputs that must be of float32.
std::vector<Shape> float_shapes(const std::string& operation, std::span<const TensorType> inputs) {
  std::vector<Shape> shapes;
  for (const TensorType& type : inputs) {
    if (type.dtype != DType::kFloat32) {
      throw ArgumentError(operation + ": input " + std::to_string(shapes.size()) +
                          ": expected dtype float32, got " + to_string(type.dtype) +
                          "; convert it with .astype(numpy.float32)");
    }
    shapes.push_back(type.shape);
  }
  return shapes;
}

}  // namespace

std::unique_ptr<Operator> make_operator(const Attributes& attributes, std::span<const TensorType> inputs,
                                        const kernels::KernelTable& kernels) {
  const auto found = registry().find(attributes.operation());
  if (found == registry().end()) {
    throw ArgumentError("there is no operator '" + attributes.operation() + "'");
  }
  const Entry& entry = found->second;
  const std::size_t most = entry.inputs + entry.optional;
  if (entry.inputs == kAnyNumber ? inputs.empty() : inputs.size() < entry.inputs || inputs.size() > most) {
    std::string expected = entry.inputs == kAnyNumber ? "at least 1" : std::to_string(entry.inputs);
    if (entry.optional > 0) expected += " to " + std::to_string(most);
    throw ArgumentError(attributes.operation(), "inputs", expected, std::to_string(inputs.size()));
  }
  std::unique_ptr<Operator> made;
  if (const auto* make = std::get_if<TypedFactory>(&entry.make)) {
    made = (*make)(attributes, inputs, kernels);
  } else {
    made =
        std::get<FloatFactory>(entry.make)(attributes, float_shapes(attributes.operation(), inputs), kernels);
  }
  attributes.check_all_used();
  return made;
}

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : registry()) names.push_back(name);
  return names;
}

}  // namespace pyconv
