// Programs of 1 to 4 threads, run by several callers at once while others are built and dropped: every result
// is the same to the bit as the images' own, one by one on one thread. Built with the thread sanitizer, it
// says too that nobody reads what another thread writes.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/recycler.h"
#include "tests/cases.h"
#include "tests/network.h"

namespace pyconv::tests {

namespace {

constexpr std::int64_t kImages = 40;
constexpr int kMostThreads = 4;
constexpr int kCallers = 4;
constexpr int kRounds = 6;

void run(const Program& program, const float* x, std::int64_t batch, float* y) {
  const void* const input = x;
  void* const output = y;
  program.run({&input, 1}, batch, {&output, 1});
}

int test() {
  const Array images = uniform({kImages, 20, 20, 1});
  std::vector<float> expected(static_cast<std::size_t>(kImages * kClasses));
  const std::unique_ptr<Program> alone = make_network(1);
  for (std::int64_t i = 0; i < kImages; ++i) {
    run(*alone, images.values.data() + i * kImageFloats, 1, expected.data() + i * kClasses);
  }

  std::vector<std::unique_ptr<Program>> programs;
  for (int threads = 1; threads <= kMostThreads; ++threads) programs.push_back(make_network(threads));
  std::atomic<int> wrong{0};
  Recycler recycler;
  const auto call = [&](const Program& program, std::int64_t first, std::int64_t batch) {
    AlignedBuffer result = recycler.take(static_cast<std::size_t>(batch * kClasses));
    const float* const x = images.values.data() + first * kImageFloats;
    run(program, x, batch, result.data());
    const auto bytes = static_cast<std::size_t>(batch * kClasses) * sizeof(float);
    if (std::memcmp(result.data(), expected.data() + first * kClasses, bytes) != 0) {
      wrong.fetch_add(1);
      std::fprintf(stderr, "differs: %d threads, images %lld to %lld\n", program.threads(),
                   static_cast<long long>(first), static_cast<long long>(first + batch));
    }
    recycler.give_back(std::move(result));
  };

  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        for (const std::int64_t batch : {1, 2, 3, 7, 33, 40}) {
          for (std::size_t p = 0; p < programs.size(); ++p) {
            const Program& program = *programs[(p + static_cast<std::size_t>(caller)) % programs.size()];
            call(program, (caller + round) % (kImages - batch + 1), batch);
          }
        }
        call(*make_network(1 + caller % kMostThreads), caller, 5);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::printf("many_callers: %d calls differ\n", wrong.load());
  return wrong.load() == 0 ? 0 : 1;
}

}  // namespace

}  // namespace pyconv::tests

int main() { return pyconv::tests::test(); }
