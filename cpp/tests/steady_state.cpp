// Once a program has run, running it again allocates nothing: the linker sends every aligned_alloc of the
// engine here (-Wl,--wrap), and `new` is replaced.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "tests/cases.h"
#include "tests/network.h"

namespace {

std::atomic<long> allocations{0};

}  // namespace

extern "C" void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);
extern "C" void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
  allocations.fetch_add(1);
  return __real_aligned_alloc(alignment, bytes);
}

void* operator new(std::size_t bytes) {
  allocations.fetch_add(1);
  void* const p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace pyconv::tests {

namespace {

int test() {
  constexpr std::int64_t kMost = 70;
  const Array images = uniform({kMost, 20, 20, 1});
  std::vector<float> result(static_cast<std::size_t>(kMost * kClasses));
  const void* const input = images.values.data();
  void* const output = result.data();
  int failures = 0;
  for (const int threads : {1, 2, 3}) {
    const long before_load = allocations.load();
    const std::unique_ptr<Program> program = make_network(threads);
    const long before_first = allocations.load();
    program->run({&input, 1}, 1, {&output, 1});
    const long after_first = allocations.load();
    if (before_first == before_load || after_first == before_first) {
      std::fprintf(stderr, "loading and the first run allocate, but nothing was counted\n");
      ++failures;
    }
    for (const std::int64_t batch : {1, 2, 3, 32, 70, 1}) {
      for (int round = 0; round < 10; ++round) program->run({&input, 1}, batch, {&output, 1});
    }
    const long more = allocations.load() - after_first;
    std::printf("steady_state: %ld allocations in 60 runs on %d threads\n", more, threads);
    if (more != 0) ++failures;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace

}  // namespace pyconv::tests

int main() { return pyconv::tests::test(); }
