#include "program/program.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/cpu.h"
#include "base/errors.h"
#include "base/fork_safe_mutex.h"

namespace pyconv {

namespace {

// More images at once would not be faster: the weights' panels are by then read often enough.
constexpr std::int64_t kMostImages = 32;
constexpr std::size_t kLineFloats = kAlignment / sizeof(float);

std::size_t whole_lines(std::int64_t floats) {
  return (static_cast<std::size_t>(floats) + kLineFloats - 1) / kLineFloats * kLineFloats;
}

// The bytes of the images before the first.
std::ptrdiff_t bytes_before(const TensorType& type, std::int64_t first) {
  return static_cast<std::ptrdiff_t>(size_of(type.dtype)) * first * type.shape.count_per_image();
}

}  // namespace

Program::Program(Parts parts, int threads) : parts_(std::move(parts)), threads_(threads) {
  if (threads_ > 1) pool_ = &ThreadPool::of(threads_);
  plan_memory();
}

void Program::plan_memory() {
  std::vector<int> ends = parts_.inputs;
  ends.insert(ends.end(), parts_.outputs.begin(), parts_.outputs.end());
  const auto batched =
      std::count_if(ends.begin(), ends.end(), [&](int value) { return shape_of(value).has_batch(); });
  has_batch_ = batched > 0;
  if (has_batch_ && batched != static_cast<std::ptrdiff_t>(ends.size())) {
    throw ArgumentError("a program has the batch in axis 0 of every input and output, or of none");
  }

  direct_output_.assign(parts_.values.size(), -1);
  for (std::size_t i = 0; i < parts_.outputs.size(); ++i) {
    const Value& root = parts_.values[static_cast<std::size_t>(
        parts_.values[static_cast<std::size_t>(parts_.outputs[i])].root)];
    int& direct = direct_output_[static_cast<std::size_t>(root.root)];
    if (root.kind == Value::Kind::kStep && direct == -1) direct = static_cast<int>(i);
  }
  chunk_ = 1;
  if (has_batch_) {
    // What is in between just fits: weights stream through, and a layer reads each value soon after it was
    // written.
    const std::size_t bytes_an_image = std::max<std::size_t>(place_buffers(1, false) * sizeof(float), 1);
    chunk_ = std::clamp<std::int64_t>(static_cast<std::int64_t>(l2_cache_bytes() / bytes_an_image), 1,
                                      kMostImages);
  }
  arena_floats_ = place_buffers(chunk_, true);
}

std::size_t Program::workspace_floats(const Step& step) {
  return whole_lines(static_cast<std::int64_t>(step.op->workspace_size()));
}

// Gives every intermediate value, and the scratch memory that every step needs for all threads, a place in
// the arena, such that what lives at the same time does not overlap, and returns the arena's size in floats.
// Largest first, each at the lowest place that is free for as long as it lives (Pisarchyk and Lee, "Efficient
// Memory Management for Deep Neural Net Inference", 2020: greedy by size).
std::size_t Program::place_buffers(std::int64_t images, bool workspaces) {
  struct Buffer {
    std::size_t index;  // into offsets_
    std::size_t size;
    std::size_t first_step;
    std::size_t last_step;
  };
  std::vector<Buffer> buffers;
  std::vector<std::size_t> buffer_of(parts_.values.size());
  for (std::size_t s = 0; s < parts_.steps.size(); ++s) {
    const Step& step = parts_.steps[s];
    for (const int input : step.inputs) {
      const Value& root =
          parts_.values[static_cast<std::size_t>(parts_.values[static_cast<std::size_t>(input)].root)];
      const auto value = static_cast<std::size_t>(root.root);
      if (root.kind == Value::Kind::kStep && direct_output_[value] == -1)
        buffers[buffer_of[value]].last_step = s;
    }
    const auto value = static_cast<std::size_t>(step.output);
    if (direct_output_[value] == -1) {
      const TensorType& type = parts_.values[value].type;
      buffer_of[value] = buffers.size();
      const std::int64_t count = type.shape.with_batch(images).count();
      buffers.push_back({value, whole_lines(floats_of(count, type.dtype)), s, s});
    }
    if (workspaces) {
      buffers.push_back(
          {parts_.values.size() + s, static_cast<std::size_t>(threads_) * workspace_floats(step), s, s});
    }
  }
  // A value that is copied to an output at the end lives that long.
  for (const int output : parts_.outputs) {
    const Value& root =
        parts_.values[static_cast<std::size_t>(parts_.values[static_cast<std::size_t>(output)].root)];
    const auto value = static_cast<std::size_t>(root.root);
    if (root.kind == Value::Kind::kStep && direct_output_[value] == -1) {
      buffers[buffer_of[value]].last_step = parts_.steps.size();
    }
  }

  std::stable_sort(buffers.begin(), buffers.end(),
                   [](const Buffer& a, const Buffer& b) { return a.size > b.size; });
  offsets_.assign(parts_.values.size() + parts_.steps.size(), 0);
  std::vector<Buffer> placed;  // by offset
  std::size_t total = 0;
  for (const Buffer& buffer : buffers) {
    std::size_t offset = 0;
    for (const Buffer& other : placed) {
      const bool together = other.first_step <= buffer.last_step && buffer.first_step <= other.last_step;
      if (!together) continue;
      if (offset + buffer.size <= offsets_[other.index]) break;
      offset = std::max(offset, offsets_[other.index] + other.size);
    }
    offsets_[buffer.index] = offset;
    total = std::max(total, offset + buffer.size);
    const auto after = std::find_if(placed.begin(), placed.end(),
                                    [&](const Buffer& other) { return offsets_[other.index] > offset; });
    placed.insert(after, buffer);
  }
  return total;
}

std::int64_t Program::arena_offset_bytes(const Step& step) const {
  const auto value = static_cast<std::size_t>(step.output);
  if (direct_output_[value] != -1) return -1;
  return static_cast<std::int64_t>(offsets_[value] * sizeof(float));
}

const std::byte* Program::address(int value, const Images& images, const Context& context) const {
  const Value& root =
      parts_.values[static_cast<std::size_t>(parts_.values[static_cast<std::size_t>(value)].root)];
  switch (root.kind) {
    case Value::Kind::kInput:
      return static_cast<const std::byte*>(images.inputs[static_cast<std::size_t>(root.index)]) +
             bytes_before(root.type, images.first);
    case Value::Kind::kConstant:
      return reinterpret_cast<const std::byte*>(
          parts_.constants[static_cast<std::size_t>(root.index)].data());
    case Value::Kind::kStep:
      break;
  }
  const int direct = direct_output_[static_cast<std::size_t>(root.root)];
  if (direct != -1) {
    return static_cast<const std::byte*>(images.outputs[static_cast<std::size_t>(direct)]) +
           bytes_before(root.type, images.first);
  }
  return reinterpret_cast<const std::byte*>(context.arena.data() +
                                            offsets_[static_cast<std::size_t>(root.root)]);
}

void Program::run(std::span<const void* const> inputs, std::int64_t batch,
                  std::span<void* const> outputs) const {
  if (batch == 0) return;
  std::vector<Context> contexts = take_contexts();
  if (pool_ == nullptr || batch < threads_) {
    for (std::int64_t first = 0; first < batch; first += chunk_) {
      run_steps({inputs, outputs, first, std::min(chunk_, batch - first)}, contexts[0], threads_);
    }
  } else {
    // Small enough pieces that every thread gets some, taken by whoever is free.
    const std::int64_t piece = std::min(chunk_, (batch + threads_ - 1) / threads_);
    std::atomic<std::int64_t> next{0};
    pool_->run([&](int index) {
      for (std::int64_t first; (first = next.fetch_add(piece, std::memory_order_relaxed)) < batch;) {
        run_steps({inputs, outputs, first, std::min(piece, batch - first)},
                  contexts[static_cast<std::size_t>(index)], 1);
      }
    });
  }
  give_back(std::move(contexts));
}

std::vector<double> Program::time_steps(std::span<const void* const> inputs, std::int64_t batch,
                                        std::span<void* const> outputs) const {
  std::vector<double> seconds(parts_.steps.size(), 0.0);
  std::vector<Context> contexts = take_contexts();
  for (std::int64_t first = 0; first < batch; first += chunk_) {
    run_steps({inputs, outputs, first, std::min(chunk_, batch - first)}, contexts[0], threads_, seconds);
  }
  give_back(std::move(contexts));
  return seconds;
}

// Takes a few images through all steps. The calling thread does it alone, or all threads share every step.
void Program::run_steps(const Images& images, Context& own, std::int64_t threads,
                        std::span<double> seconds) const {
  using Clock = std::chrono::steady_clock;
  for (std::size_t s = 0; s < parts_.steps.size(); ++s) {
    const Step& step = parts_.steps[s];
    const Clock::time_point start = seconds.empty() ? Clock::time_point{} : Clock::now();
    own.arguments.clear();
    for (const int input : step.inputs) {
      own.arguments.push_back({reinterpret_cast<const float*>(address(input, images, own)),
                               shape_of(input).with_batch(images.count), type_of(input).dtype});
    }
    const std::span<const ConstTensor> arguments(own.arguments);
    auto* const place = const_cast<std::byte*>(address(step.output, images, own));
    const Tensor output{reinterpret_cast<float*>(place), shape_of(step.output).with_batch(images.count),
                        type_of(step.output).dtype};
    const std::int64_t units = step.op->units(arguments, output);
    float* const workspace = own.arena.data() + offsets_[parts_.values.size() + s];
    if (threads == 1 || units == 1) {
      step.op->run(arguments, output, {0, units}, workspace);
    } else {
      pool_->run([&](int thread) {
        const UnitRange range{units * thread / threads, units * (thread + 1) / threads};
        step.op->run(arguments, output, range,
                     workspace + static_cast<std::size_t>(thread) * workspace_floats(step));
      });
    }
    if (!seconds.empty()) seconds[s] += std::chrono::duration<double>(Clock::now() - start).count();
  }
  copy_outputs(images, own);
}

// Outputs that no step writes directly: an input, a constant, or one that is asked for twice.
void Program::copy_outputs(const Images& images, const Context& context) const {
  for (std::size_t i = 0; i < parts_.outputs.size(); ++i) {
    const int value = parts_.outputs[i];
    const auto root = static_cast<std::size_t>(parts_.values[static_cast<std::size_t>(value)].root);
    if (direct_output_[root] == static_cast<int>(i)) continue;
    const TensorType& type = type_of(value);
    const std::int64_t count = type.shape.with_batch(images.count).count();
    std::copy_n(address(value, images, context), count * static_cast<std::int64_t>(size_of(type.dtype)),
                static_cast<std::byte*>(images.outputs[i]) + bytes_before(type, images.first));
  }
}

std::vector<Program::Context> Program::take_contexts() const {
  {
    const std::lock_guard lock(fork_safe_mutex());
    if (!idle_.empty()) {
      std::vector<Context> contexts = std::move(idle_.back());
      idle_.pop_back();
      return contexts;
    }
  }
  std::size_t most_inputs = 0;
  for (const Step& step : parts_.steps) most_inputs = std::max(most_inputs, step.inputs.size());
  std::vector<Context> contexts(static_cast<std::size_t>(threads_));
  for (Context& context : contexts) {
    context.arena = AlignedBuffer(arena_floats_);
    context.arguments.reserve(most_inputs);
  }
  return contexts;
}

void Program::give_back(std::vector<Context> contexts) const {
  const std::lock_guard lock(fork_safe_mutex());
  idle_.push_back(std::move(contexts));
}

}  // namespace pyconv
