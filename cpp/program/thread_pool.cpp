#include "program/thread_pool.h"

#include <unistd.h>

#include <map>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif

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

// True as soon as `value` is no longer `old`; false when some tens of microseconds have passed before.
bool changes_soon(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr int kSpins = 2000;  // about 30 microseconds
  for (int spin = 0; spin < kSpins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return true;
    pause_briefly();
  }
  return false;
}

// Where a thread wakes up. Linux often puts a thread that is woken behind the one that wakes it, on the same
// CPU, though another has nothing to do; there it stays until its time has come, some milliseconds later, and
// all that while the caller does the work alone. So a sleeping worker is kept off the caller's CPU, and
// allowed back on it as soon as it is awake.
#if defined(__linux__)
pid_t thread_id() { return static_cast<pid_t>(syscall(SYS_gettid)); }

int current_cpu() { return sched_getcpu(); }

// Whether the thread may now run on other CPUs alone; not where it could run on no other before.
bool forbid(pid_t thread, int cpu) {
  cpu_set_t allowed;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(thread, sizeof allowed, &allowed) != 0) return false;
  if (!CPU_ISSET(static_cast<std::size_t>(cpu), &allowed) || CPU_COUNT(&allowed) < 2) return false;
  CPU_CLR(static_cast<std::size_t>(cpu), &allowed);
  return sched_setaffinity(thread, sizeof allowed, &allowed) == 0;
}

void allow(pid_t thread, int cpu) {
  cpu_set_t allowed;
  if (sched_getaffinity(thread, sizeof allowed, &allowed) != 0) return;
  CPU_SET(static_cast<std::size_t>(cpu), &allowed);
  sched_setaffinity(thread, sizeof allowed, &allowed);
}
#else
pid_t thread_id() { return 0; }
int current_cpu() { return -1; }
bool forbid(pid_t, int) { return false; }
void allow(pid_t, int) {}
#endif

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
    Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
    worker.thread = std::thread([this, &worker] { work(worker); });
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
  for (const auto& worker : workers_) {
    // One that is kept off a CPU already has not woken up since.
    if (!worker->asleep.load(std::memory_order_acquire) || worker->forbidden.load() >= 0) continue;
    const int cpu = current_cpu();
    if (forbid(worker->id.load(std::memory_order_relaxed), cpu)) worker->forbidden.store(cpu);
  }
  round_.notify_all();
  take_part();
  for (std::uint32_t done = done_.load(std::memory_order_acquire); done != count;
       done = done_.load(std::memory_order_acquire)) {
    if (!changes_soon(done_, done)) done_.wait(done, std::memory_order_acquire);
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

void ThreadPool::work(Worker& worker) {
  worker.id.store(thread_id(), std::memory_order_relaxed);
  for (std::uint32_t seen = 0;;) {
    if (!changes_soon(round_, seen)) {
      worker.asleep.store(true, std::memory_order_release);
      round_.wait(seen, std::memory_order_acquire);
      worker.asleep.store(false, std::memory_order_relaxed);
      if (const int cpu = worker.forbidden.exchange(-1); cpu >= 0) allow(worker.id, cpu);
    }
    seen = round_.load(std::memory_order_acquire);
    take_part();
  }
}

}  // namespace pyconv
