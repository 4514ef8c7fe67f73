// Micro-benchmarks of every kernel at every ISA level of the CPU: see docs/benchmarks.md.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <map>

#include "benchmarks/kernel_benchmark.h"
#include "kernels/dispatch.h"

namespace pyconv::benchmarks {

namespace {

bool all_right = true;

double peak_flops(const kernels::KernelTable& table) {
  static std::map<const kernels::KernelTable*, double> measured;
  const auto [place, is_new] = measured.try_emplace(&table);
  if (is_new) place->second = 1e9 * kernels::peak_gflops(table, 0.2);
  return place->second;
}

void measure(benchmark::State& state, const Entry& entry) {
  const std::unique_ptr<KernelBenchmark> kernel = entry.make();
  kernel->run();
  if (const std::string fault = kernel->fault(); !fault.empty()) {
    all_right = false;
    state.SkipWithError(fault.c_str());
    return;
  }
  const double peak = peak_flops(*entry.table);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for ([[maybe_unused]] auto _ : state) {
    kernel->run();
    benchmark::ClobberMemory();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const Work work = kernel->work();
  const double runs = static_cast<double>(state.iterations());
  using benchmark::Counter;
  if (work.flops > 0) {
    state.counters["FLOP"] = Counter(work.flops * runs, Counter::kIsRate);
    state.counters["peak_%"] = 100 * work.flops * runs / seconds / peak;
  }
  if (work.bytes > 0) state.counters["B"] = Counter(work.bytes * runs, Counter::kIsRate);
}

// What a core copies within a cache, or beyond them: the limit of kernels that only move.
void copy(benchmark::State& state) {
  const std::int64_t bytes = state.range(0);
  const AlignedBuffer from = uniform(bytes / 8, 1);
  AlignedBuffer to = uniform(bytes / 8, 2);
  for ([[maybe_unused]] auto _ : state) {
    std::memcpy(to.data(), from.data(), static_cast<std::size_t>(bytes / 2));
    benchmark::ClobberMemory();
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["B"] = benchmark::Counter(static_cast<double>(bytes) * runs, benchmark::Counter::kIsRate);
}

void register_all() {
  benchmark::RegisterBenchmark("copy/bytes", &copy)->Arg(16 << 10)->Arg(256 << 10)->Arg(64 << 20);
  for (const kernels::KernelTable* table : kernels::available()) {
    List list(*table);
    add_matrix_kernels(list);
    add_convolution_kernels(list);
    add_pool_kernels(list);
    add_elementwise_kernels(list);
    for (const Entry& entry : list.entries()) {
      benchmark::RegisterBenchmark(entry.name.c_str(),
                                   [entry](benchmark::State& state) { measure(state, entry); });
    }
  }
}

}  // namespace

}  // namespace pyconv::benchmarks

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  pyconv::benchmarks::register_all();
  const bool any = benchmark::RunSpecifiedBenchmarks() > 0;
  return any && pyconv::benchmarks::all_right ? 0 : 1;
}
