// The extension module pyconv._core: NumPy arrays in, NumPy arrays out, no arithmetic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/errors.h"
#include "base/recycler.h"
#include "kernels/dispatch.h"
#include "program/builder.h"
#include "reference/reference.h"

namespace py = pybind11;

namespace pyconv {
namespace {

const kernels::KernelTable& level_of(const std::optional<std::string>& isa) {
  return isa ? kernels::level(*isa) : kernels::selected();
}

Shape shape_of(const py::array& array) {
  std::vector<std::int64_t> sizes(array.shape(), array.shape() + array.ndim());
  return Shape{std::span<const std::int64_t>(sizes)};
}

std::vector<py::ssize_t> sizes_of(const Shape& shape) { return {shape.sizes().begin(), shape.sizes().end()}; }

// A NumPy array, contiguous, and what it holds.
struct Operand {
  py::array array;
  TensorType type;

  ConstTensor tensor() const { return {static_cast<const float*>(array.data()), type.shape, type.dtype}; }
};

py::dtype numpy_dtype(DType dtype) {
  return with_type(dtype, []<class T>() { return py::dtype::of<T>(); });
}

// A contiguous view of a NumPy array: the array itself where it is contiguous, else a copy. A dtype that the
// engine lacks is refused, because a silent conversion would hide what it costs; `what` makes the text that
// the array is called by then.
template <class What>
Operand operand(const What& what, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw ArgumentError(what() + ": expected a NumPy array, got " +
                        py::cast<std::string>(py::type::handle_of(object).attr("__name__")));
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  for (const DType dtype : kDTypes) {
    const bool same = with_type(dtype, [&]<class T>() { return py::isinstance<py::array_t<T>>(array); });
    if (same) {
      if ((array.flags() & py::array::c_style) != 0) return {array, {shape_of(array), dtype}};
      const auto contiguous = py::array::ensure(array, py::array::c_style);
      if (!contiguous) throw py::error_already_set();
      return {contiguous, {shape_of(array), dtype}};
    }
  }
  throw ArgumentError(what() + ": expected dtype float32, got " +
                      py::cast<std::string>(py::str(array.dtype())) +
                      "; convert it with .astype(numpy.float32)");
}

Array constant_of(const std::string& what, py::handle object) {
  const Operand constant = operand([&] { return what; }, object);
  if (constant.type.dtype != DType::kFloat32) {
    throw ArgumentError(what + ": expected dtype float32, got " + to_string(constant.type.dtype) +
                        "; convert it with .astype(numpy.float32)");
  }
  const ConstTensor tensor = constant.tensor();
  return {tensor.shape, {tensor.data, tensor.data + tensor.shape.count()}};
}

std::int64_t integer_of(const std::string& what, py::handle value) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (number) {
    const long long result = PyLong_AsLongLong(number.ptr());
    if (!(result == -1 && PyErr_Occurred())) return result;
  }
  PyErr_Clear();
  throw ArgumentError(what + ": expected an integer of at most 64 bits, got " +
                      py::cast<std::string>(py::repr(value)));
}

Attributes::Value attribute_value(const std::string& what, py::handle value) {
  if (py::isinstance<py::str>(value)) return py::cast<std::string>(value);
  if (py::isinstance<py::array>(value)) return constant_of(what, value);
  if (py::isinstance<py::float_>(value)) return py::cast<double>(value);
  if (py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value)) {
    std::vector<std::int64_t> integers;
    for (const py::handle item : value) integers.push_back(integer_of(what, item));
    return integers;
  }
  return integer_of(what, value);
}

Attributes attributes_of(const std::string& operation, const py::dict& settings) {
  Attributes attributes(operation);
  for (const auto& [key, value] : settings) {
    if (value.is_none()) continue;  // as if it had not been given
    const auto name = py::cast<std::string>(key);
    attributes.set(name, attribute_value(operation + ": " + name, value));
  }
  return attributes;
}

// Outlives every array, also those that the interpreter drops at its very end.
Recycler& recycler() {
  static Recycler* const instance = new Recycler;
  return *instance;
}

// A new array. A large one uses memory again that earlier arrays have left, and begins on a cache line, which
// NumPy does not see to by itself: kernels write whole vectors, each of which would otherwise lie across two.
py::array empty_array(const TensorType& type) {
  constexpr std::int64_t kLarge = 4096;
  const std::int64_t floats = floats_of(type.shape.count(), type.dtype);
  if (floats < kLarge) return py::array(numpy_dtype(type.dtype), sizes_of(type.shape));
  auto memory = std::make_unique<AlignedBuffer>(recycler().take(static_cast<std::size_t>(floats)));
  float* const data = memory->data();
  const py::capsule owner(memory.get(), [](void* buffer) {
    const std::unique_ptr<AlignedBuffer> left(static_cast<AlignedBuffer*>(buffer));
    recycler().give_back(std::move(*left));
  });
  static_cast<void>(memory.release());
  return py::array(numpy_dtype(type.dtype), sizes_of(type.shape), data, owner);
}

std::vector<Operand> operands(const std::string& operation, const py::sequence& inputs) {
  std::vector<Operand> arrays;
  arrays.reserve(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    arrays.push_back(operand([&] { return operation + ": input " + std::to_string(i); }, inputs[i]));
  }
  return arrays;
}

py::array run_operator(const std::string& name, const py::sequence& inputs, const py::dict& settings,
                       const std::optional<std::string>& isa) {
  const Attributes attributes = attributes_of(name, settings);
  const std::vector<Operand> arrays = operands(name, inputs);
  std::vector<TensorType> types;
  std::vector<ConstTensor> tensors;
  for (const Operand& array : arrays) {
    types.push_back(array.type);
    tensors.push_back(array.tensor());
  }
  const std::unique_ptr<Operator> op = make_operator(attributes, types, level_of(isa));
  py::array result = empty_array({op->output_shape(), op->output_dtype()});
  const Tensor output{static_cast<float*>(result.mutable_data()), op->output_shape(), op->output_dtype()};
  const py::gil_scoped_release release;
  AlignedBuffer workspace(op->workspace_size());
  op->run(tensors, output, {0, op->units(tensors, output)}, workspace.data());
  return result;
}

py::array_t<double> reference_operator(const std::string& name, const py::sequence& inputs,
                                       const py::dict& settings) {
  std::vector<reference::Tensor> tensors;
  for (const Operand& array : operands(name, inputs)) {
    tensors.push_back({array.type.shape, {}, array.type.dtype});
    with_type(array.type.dtype, [&]<class T>() {
      const T* values = array.tensor().as<T>();
      const std::int64_t count = array.type.shape.count();
      for (std::int64_t i = 0; i < count; ++i)
        tensors.back().values.push_back(static_cast<double>(values[i]));
    });
  }
  const reference::Tensor result = reference::run(attributes_of(name, settings), tensors);
  py::array_t<double> array(sizes_of(result.shape));
  std::copy(result.values.begin(), result.values.end(), array.mutable_data());
  return array;
}

// The batch of the inputs of a program; throws where they do not fit it or each other.
std::int64_t check_inputs(const Program& program, const std::vector<Operand>& arrays) {
  const std::size_t expected = program.input_names().size();
  if (arrays.size() != expected) {
    throw ArgumentError("program", "inputs", std::to_string(expected) + " arrays",
                        std::to_string(arrays.size()));
  }
  std::int64_t batch = 1;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto& [shape, dtype] = arrays[i].type;
    const Shape& declared = program.input_type(i).shape;
    if (dtype != program.input_type(i).dtype) {
      throw ArgumentError("program: input " + std::to_string(i) + ": expected dtype " +
                          to_string(program.input_type(i).dtype) + ", got " + to_string(dtype));
    }
    if (i == 0 && declared.has_batch() && shape.rank() > 0) batch = shape[0];
    if (shape != declared.with_batch(batch)) {
      throw ArgumentError("program", "input '" + program.input_names()[i] + "'",
                          "shape " + to_string(i == 0 ? declared : declared.with_batch(batch)),
                          to_string(shape));
    }
  }
  return batch;
}

// The arrays of one call of a program.
struct Call {
  Call(const Program& program, const py::sequence& inputs) : arrays(operands("program", inputs)) {
    batch = check_inputs(program, arrays);
    for (const Operand& operand : arrays) sources.push_back(operand.array.data());
    for (std::size_t i = 0; i < program.outputs(); ++i) {
      const auto& [shape, dtype] = program.output_type(i);
      py::array result = empty_array({shape.with_batch(batch), dtype});
      destinations.push_back(result.mutable_data());
      results.append(std::move(result));
    }
  }

  std::vector<Operand> arrays;
  std::int64_t batch;
  std::vector<const void*> sources;
  std::vector<void*> destinations;
  py::list results;
};

py::list run_program(const Program& program, const py::sequence& inputs) {
  Call call(program, inputs);
  {
    const py::gil_scoped_release release;
    program.run(call.sources, call.batch, call.destinations);
  }
  return call.results;
}

std::vector<double> time_steps(const Program& program, const py::sequence& inputs) {
  const Call call(program, inputs);
  const py::gil_scoped_release release;
  return program.time_steps(call.sources, call.batch, call.destinations);
}

struct StepInfo {
  std::string name;
  std::string operator_name;
  std::string algorithm;
  std::vector<std::int64_t> shape;
  std::int64_t flops;
  std::int64_t arena_offset_bytes;
};

std::vector<StepInfo> describe(const Program& program) {
  std::vector<StepInfo> infos;
  for (const Step& step : program.steps()) {
    const Shape& shape = step.op->output_shape();
    infos.push_back({step.name,
                     step.operator_name,
                     step.op->algorithm(),
                     {shape.sizes().begin(), shape.sizes().end()},
                     step.op->flops(),
                     program.arena_offset_bytes(step)});
  }
  return infos;
}

void register_errors() {
  // pyconv.errors is plain Python and imports nothing of ours, so there is no circle.
  static const py::object& input_error =
      *new py::object(py::module_::import("pyconv.errors").attr("InputError"));
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ArgumentError& error) {
      PyErr_SetString(input_error.ptr(), error.what());
    }
  });
}

void register_levels(py::module_& module) {
  module.def(
      "isa", [] { return std::string(kernels::selected().name); },
      "The ISA level in use: PYCONV_ISA's, or the best that this CPU runs.");
  module.def(
      "isa_levels",
      [] {
        std::vector<std::string> names;
        for (const kernels::KernelTable* table : kernels::available()) names.emplace_back(table->name);
        return names;
      },
      "The ISA levels that this build holds and this CPU runs, the best last.");
  module.def(
      "peak_gflops",
      [](double seconds, const std::optional<std::string>& isa) {
        const kernels::KernelTable& table = level_of(isa);
        const py::gil_scoped_release release;
        return kernels::peak_gflops(table, seconds);
      },
      py::arg("seconds") = 0.1, py::arg("isa") = std::nullopt,
      "Measure the float32 peak of one core, in 10^9 operations a second; a fused multiply-add is two.");
}

void register_operators(py::module_& module) {
  module.def("operators", &operator_names, "The names of the operators.");
  module.def("run_operator", &run_operator, py::arg("name"), py::arg("inputs"), py::arg("attributes"),
             py::arg("isa") = std::nullopt,
             "Run one operator on arrays, channels last; raises InputError for what does not fit.");
  module.def("reference_operator", &reference_operator, py::arg("name"), py::arg("inputs"),
             py::arg("attributes"), "The same by naive loops in double precision: the oracle of the tests.");
}

void register_program(py::module_& module) {
  py::class_<StepInfo>(module, "Step", "One step of a program.")
      .def_readonly("name", &StepInfo::name, "The name of what it produces.")
      .def_readonly("operator", &StepInfo::operator_name, "The operator's name.")
      .def_readonly("algorithm", &StepInfo::algorithm, "How it is computed, and what is fused into it.")
      .def_readonly("shape", &StepInfo::shape, "The shape of what it produces; -1 is the batch.")
      .def_readonly("flops", &StepInfo::flops, "Floating-point operations for one image.")
      .def_readonly("arena_offset_bytes", &StepInfo::arena_offset_bytes,
                    "Where its output begins in the arena; -1 where it is an output of the program.");

  py::class_<Program>(module, "Program", "A compiled network; safe to run from many threads at once.")
      .def("run", &run_program, py::arg("inputs"),
           "Compute the outputs from arrays, in the order of the builder's inputs.")
      .def("time_steps", &time_steps, py::arg("inputs"),
           "Run once and return the seconds that each step took; the threads share every step.")
      .def("steps", &describe, "What was compiled, in order.")
      .def_property_readonly("threads", &Program::threads, "How many threads a run uses.")
      .def_property_readonly("arena_bytes", &Program::arena_bytes,
                             "Bytes that one thread holds for a run: what lies between steps, and scratch.")
      .def_property_readonly("chunk", &Program::chunk, "How many images go through the steps together.");

  py::class_<ProgramBuilder>(module, "ProgramBuilder", "Builds a program value by value.")
      .def(py::init([](const std::optional<std::string>& isa) { return ProgramBuilder(level_of(isa)); }),
           py::arg("isa") = std::nullopt)
      .def(
          "input",
          [](ProgramBuilder& builder, const std::string& name, const std::vector<std::int64_t>& shape,
             const std::string& dtype) {
            return builder.input(name, {Shape{std::span(shape)}, parse_dtype("program", dtype)});
          },
          py::arg("name"), py::arg("shape"), py::arg("dtype") = "float32",
          "A tensor given at each run; -1 in axis 0 is the batch.")
      .def(
          "constant",
          [](ProgramBuilder& builder, const py::object& array) {
            return builder.constant(operand([] { return std::string("constant"); }, array).tensor());
          },
          py::arg("array"), "A tensor that never changes; copied.")
      .def(
          "add",
          [](ProgramBuilder& builder, const std::string& name, const std::vector<int>& inputs,
             const py::dict& attributes,
             const std::string& step) { return builder.add(attributes_of(name, attributes), inputs, step); },
          py::arg("operator"), py::arg("inputs"), py::arg("attributes"), py::arg("name") = "",
          "What an operator makes of other values.")
      .def(
          "shape",
          [](const ProgramBuilder& builder, int value) {
            const Shape& shape = builder.type(value).shape;
            return std::vector<std::int64_t>(shape.sizes().begin(), shape.sizes().end());
          },
          py::arg("value"), "A value's shape; -1 is the batch.")
      .def(
          "dtype",
          [](const ProgramBuilder& builder, int value) { return to_string(builder.type(value).dtype); },
          py::arg("value"), "A value's dtype, as NumPy names it.")
      .def("build", &ProgramBuilder::build, py::arg("outputs"), py::arg("threads") = 1,
           "The program that computes these values; the builder is empty afterwards.");
}

}  // namespace
}  // namespace pyconv

PYBIND11_MODULE(_core, module) {
  module.doc() = "pyconv's engine in C++; use it through the package pyconv.";
  pyconv::register_errors();
  pyconv::register_levels(module);
  pyconv::register_operators(module);
  pyconv::register_program(module);
}
