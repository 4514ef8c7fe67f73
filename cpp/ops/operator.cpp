#include "ops/operator.h"

#include <algorithm>
#include <map>

#include "base/errors.h"
#include "ops/activation.h"
#include "ops/binary.h"
#include "ops/conv2d/conv2d.h"
#include "ops/dense.h"
#include "ops/movement.h"
#include "ops/pool2d.h"
#include "ops/reduce.h"
#include "ops/softmax.h"

namespace pyconv {

namespace {

using Factory = std::unique_ptr<Operator> (*)(const Attributes&, std::span<const Shape>,
                                              const kernels::KernelTable&);

constexpr std::size_t kAnyNumber = 0;

struct Entry {
  std::size_t inputs;  // how many, or kAnyNumber
  Factory make;
};

// Every operator, once.
const std::map<std::string, Entry>& registry() {
  static const std::map<std::string, Entry> table = {
      {"activation", {1, make_activation}},
      {"add", {2, make_binary}},
      {"average_pool2d", {1, make_average_pool2d}},
      {"concat", {kAnyNumber, make_concat}},
      {"conv2d", {1, make_conv2d}},
      {"dense", {1, make_dense}},
      {"divide", {2, make_binary}},
      {"global_average_pool2d", {1, make_global_average_pool2d}},
      {"global_max_pool2d", {1, make_global_max_pool2d}},
      {"log_softmax", {1, make_softmax}},
      {"max_pool2d", {1, make_max_pool2d}},
      {"maximum", {2, make_binary}},
      {"minimum", {2, make_binary}},
      {"multiply", {2, make_binary}},
      {"pad", {1, make_pad}},
      {"power", {2, make_binary}},
      {"reduce", {1, make_reduce}},
      {"reshape", {1, make_reshape}},
      {"slice", {1, make_slice}},
      {"softmax", {1, make_softmax}},
      {"subtract", {2, make_binary}},
      {"transpose", {1, make_transpose}},
  };
  return table;
}

}  // namespace

std::unique_ptr<Operator> make_operator(const Attributes& attributes, std::span<const Shape> inputs,
                                        const kernels::KernelTable& kernels) {
  const auto found = registry().find(attributes.operation());
  if (found == registry().end()) {
    throw ArgumentError("there is no operator '" + attributes.operation() + "'");
  }
  const Entry& entry = found->second;
  if (entry.inputs == kAnyNumber ? inputs.empty() : inputs.size() != entry.inputs) {
    throw ArgumentError(attributes.operation(), "inputs",
                        entry.inputs == kAnyNumber ? "at least 1" : std::to_string(entry.inputs),
                        std::to_string(inputs.size()));
  }
  std::unique_ptr<Operator> made = entry.make(attributes, inputs, kernels);
  attributes.check_all_used();
  return made;
}

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : registry()) names.push_back(name);
  return names;
}

}  // namespace pyconv
