#include "program/thread_pool.h"

#include <unistd.h>

#include <map>

#include "base/fork_safe_mutex.h"

namespace pyconv {

namespace {

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns when `value` is no longer `old`: spins first, then sleeps.
void wait_while_equal(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr int kSpins = 2000;  // about 30 microseconds
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool& ThreadPool::of(int threads) {
  static auto& pools = *new std::map<int, ThreadPool*>;  // never destroyed, see the header
  const std::lock_guard lock(fork_safe_mutex());
  ThreadPool*& pool = pools[threads];
  if (pool == nullptr) pool = new ThreadPool(threads);
  return *pool;
}

ThreadPool::ThreadPool(int threads) : process_(getpid()) {
  for (int index = 1; index < threads; ++index) {
    workers_.emplace_back([this] { work(); });
  }
}

void ThreadPool::call(Call function, const void* data) {
  const std::unique_lock lock(busy_, std::try_to_lock);
  if (!lock.owns_lock() || workers_.empty() || getpid() != process_) {
    for (int index = 0; index < threads(); ++index) function(data, index);
    return;
  }
  function_ = function;
  data_ = data;
  done_.store(0, std::memory_order_relaxed);
  const auto count = static_cast<std::uint32_t>(threads());
  const std::uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  tickets_.store(std::uint64_t{round} << 32 | count, std::memory_order_release);
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_part();
  for (std::uint32_t done = done_.load(std::memory_order_acquire); done != count;
       done = done_.load(std::memory_order_acquire)) {
    wait_while_equal(done_, done);
  }
}

void ThreadPool::take_part() {
  std::uint64_t tickets = tickets_.load(std::memory_order_acquire);
  while (static_cast<std::uint32_t>(tickets) != 0) {
    if (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acquire)) continue;
    function_(data_, static_cast<int>(static_cast<std::uint32_t>(tickets)) - 1);
    done_.fetch_add(1, std::memory_order_release);
    done_.notify_one();
    tickets = tickets_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work() {
  for (std::uint32_t seen = 0;;) {
    wait_while_equal(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    take_part();
  }
}

}  // namespace pyconv
