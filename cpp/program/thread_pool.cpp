#include "program/thread_pool.h"

#include <unistd.h>

#include <map>

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
  static std::mutex mutex;
  static auto& pools = *new std::map<int, ThreadPool*>;  // never destroyed, see the header
  const std::lock_guard lock(mutex);
  ThreadPool*& pool = pools[threads];
  if (pool == nullptr) pool = new ThreadPool(threads);
  return *pool;
}

ThreadPool::ThreadPool(int threads) : process_(getpid()) {
  for (int index = 1; index < threads; ++index) {
    workers_.emplace_back([this, index] { work(index); });
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
  unfinished_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  function(data, 0);
  for (std::uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0;
       left = unfinished_.load(std::memory_order_acquire)) {
    wait_while_equal(unfinished_, left);
  }
}

void ThreadPool::work(int index) {
  for (std::uint32_t seen = 0;;) {
    wait_while_equal(round_, seen);
    const std::uint32_t now = round_.load(std::memory_order_acquire);
    if (now == seen) continue;  // woken for nothing
    seen = now;
    function_(data_, index);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    unfinished_.notify_one();
  }
}

}  // namespace pyconv
