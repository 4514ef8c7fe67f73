#include "program/builder.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"

namespace pyconv {

namespace {

constexpr int kMostThreads = 1024;

}  // namespace

const Value& ProgramBuilder::at(int value) const {
  if (value < 0 || static_cast<std::size_t>(value) >= parts_.values.size()) {
    throw ArgumentError("program", "value", "a number below " + std::to_string(parts_.values.size()),
                        std::to_string(value));
  }
  return parts_.values[static_cast<std::size_t>(value)];
}

const TensorType& ProgramBuilder::type(int value) const { return at(value).type; }

int ProgramBuilder::input(const std::string& name, const TensorType& type) {
  const Shape& shape = type.shape;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] < 0 && !(axis == 0 && shape.has_batch())) {
      throw ArgumentError("program", "the shape of input '" + name + "'",
                          "fixed sizes, -1 for the batch alone", to_string(shape));
    }
  }
  const int value = static_cast<int>(parts_.values.size());
  parts_.values.push_back({Value::Kind::kInput, static_cast<int>(parts_.inputs.size()), value, type});
  parts_.inputs.push_back(value);
  parts_.input_names.push_back(name);
  return value;
}

int ProgramBuilder::constant(const ConstTensor& tensor) {
  const int value = static_cast<int>(parts_.values.size());
  parts_.values.push_back({Value::Kind::kConstant,
                           static_cast<int>(parts_.constants.size()),
                           value,
                           {tensor.shape, tensor.dtype}});
  const auto bytes = static_cast<std::size_t>(tensor.shape.count()) * size_of(tensor.dtype);
  AlignedBuffer buffer((bytes + sizeof(float) - 1) / sizeof(float));
  if (bytes > 0) std::memcpy(buffer.data(), tensor.data, bytes);
  parts_.constants.push_back(std::move(buffer));
  return value;
}

int ProgramBuilder::add(const Attributes& attributes, const std::vector<int>& inputs,
                        const std::string& name) {
  std::vector<TensorType> types;
  for (const int input : inputs) types.push_back(at(input).type);
  std::unique_ptr<Operator> op = make_operator(attributes, types, *kernels_);
  const int value = static_cast<int>(parts_.values.size());
  const int root = op->is_view() ? at(inputs[0]).root : value;
  parts_.values.push_back({Value::Kind::kStep,
                           static_cast<int>(parts_.steps.size()),
                           root,
                           {op->output_shape(), op->output_dtype()}});
  parts_.steps.push_back({name, attributes.operation(), std::move(op), inputs, value});
  return value;
}

std::unique_ptr<Program> ProgramBuilder::build(const std::vector<int>& outputs, int threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw ArgumentError("program", "threads", "1 to " + std::to_string(kMostThreads),
                        std::to_string(threads));
  }
  std::vector<bool> needed(parts_.values.size(), false);
  for (const int output : outputs) {
    needed[static_cast<std::size_t>(at(output).root)] = true;
  }
  std::vector<Step> kept;
  for (std::size_t s = parts_.steps.size(); s-- > 0;) {
    Step& step = parts_.steps[s];
    if (step.op->is_view() || !needed[static_cast<std::size_t>(step.output)]) continue;
    for (const int input : step.inputs) needed[static_cast<std::size_t>(at(input).root)] = true;
    kept.push_back(std::move(step));
  }
  std::reverse(kept.begin(), kept.end());
  parts_.steps = std::move(kept);
  for (std::size_t s = 0; s < parts_.steps.size(); ++s) {
    parts_.values[static_cast<std::size_t>(parts_.steps[s].output)].index = static_cast<int>(s);
  }
  parts_.outputs = outputs;
  auto program = std::make_unique<Program>(std::move(parts_), threads);
  parts_ = {};
  return program;
}

}  // namespace pyconv
