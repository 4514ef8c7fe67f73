// A compiled network.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "ops/operator.h"
#include "program/thread_pool.h"

namespace pyconv {

// Where a value of a program comes from. A view is another value's elements under another shape.
struct Value {
  enum class Kind { kInput, kConstant, kStep };
  Kind kind;
  int index;  // of the input, the constant or the step
  int root;   // the value that holds the elements: itself, unless it is a view
  TensorType type;
};

struct Step {
  std::string name;  // of what it produces
  std::string operator_name;
  std::unique_ptr<Operator> op;
  std::vector<int> inputs;  // values
  int output;               // a value
};

// Steps in order, memory planned, ready to run; made by ProgramBuilder.
//
// Depth first: where axis 0 is the batch, a few images at a time go through all steps, so that what lies
// between the steps stays in the second-level cache, and each thread takes images of its own. With fewer
// images than threads the threads share each step's work units instead.
//
// `run` may be called from many threads at once: each call has buffers of its own, kept for later calls.
class Program {
 public:
  struct Parts {
    std::vector<Value> values;
    std::vector<std::string> input_names;
    std::vector<int> inputs;  // values
    std::vector<AlignedBuffer> constants;
    std::vector<Step> steps;
    std::vector<int> outputs;  // values
  };
  Program(Parts parts, int threads);

  const std::vector<std::string>& input_names() const { return parts_.input_names; }
  std::size_t outputs() const { return parts_.outputs.size(); }
  const TensorType& input_type(std::size_t i) const { return type_of(parts_.inputs[i]); }
  const TensorType& output_type(std::size_t i) const { return type_of(parts_.outputs[i]); }
  const std::vector<Step>& steps() const { return parts_.steps; }
  int threads() const { return threads_; }
  // True where axis 0 of every input and output is the batch; else none has it.
  bool has_batch() const { return has_batch_; }
  // Bytes that one thread holds for a call: intermediate tensors, and the steps' scratch memory for as many
  // threads as may share a step.
  std::size_t arena_bytes() const { return arena_floats_ * sizeof(float); }
  // Where in the arena the output of a step begins, in bytes; -1 where the step writes straight into the
  // array that the run returns.
  std::int64_t arena_offset_bytes(const Step& step) const;
  // How many images go through the steps together.
  std::int64_t chunk() const { return chunk_; }

  // Computes all outputs of `batch` images (1 where has_batch() is false). The pointers are to contiguous
  // tensors of the inputs' and outputs' types; they must not overlap.
  void run(std::span<const void* const> inputs, std::int64_t batch, std::span<void* const> outputs) const;

  // The same, with the wall-clock seconds that each step took. The threads share each step here, so that
  // there is one time for it.
  std::vector<double> time_steps(std::span<const void* const> inputs, std::int64_t batch,
                                 std::span<void* const> outputs) const;

 private:
  // The memory of one thread for one call.
  struct Context {
    AlignedBuffer arena;
    std::vector<ConstTensor> arguments;
  };
  // What one call works on: the images [first, first + count).
  struct Images {
    std::span<const void* const> inputs;
    std::span<void* const> outputs;
    std::int64_t first;
    std::int64_t count;
  };

  const TensorType& type_of(int value) const { return parts_.values[static_cast<std::size_t>(value)].type; }
  const Shape& shape_of(int value) const { return type_of(value).shape; }
  void plan_memory();
  std::size_t place_buffers(std::int64_t images, bool workspaces);
  // The scratch memory of a step for one thread.
  static std::size_t workspace_floats(const Step& step);
  // Adds each step's seconds to `seconds` where that is not empty.
  void run_steps(const Images& images, Context& own, std::int64_t threads,
                 std::span<double> seconds = {}) const;
  void copy_outputs(const Images& images, const Context& context) const;
  const std::byte* address(int value, const Images& images, const Context& context) const;

  // One context for each thread.
  std::vector<Context> take_contexts() const;
  void give_back(std::vector<Context> contexts) const;

  Parts parts_;
  int threads_;
  ThreadPool* pool_ = nullptr;  // null for one thread
  bool has_batch_ = false;
  std::int64_t chunk_ = 1;
  std::vector<int> direct_output_;  // by value: the output that its step writes straight to, or -1
  // Where in the arena, in floats, by value; and behind those, by step, where its scratch memory lies.
  std::vector<std::size_t> offsets_;
  std::size_t arena_floats_ = 0;

  // What calls have left for later ones, under fork_safe_mutex(); moved in and out whole, so that a call
  // allocates nothing.
  mutable std::vector<std::vector<Context>> idle_;
};

}  // namespace pyconv
