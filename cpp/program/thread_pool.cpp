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

pid_t thread_id() {
#if defined(__linux__)
  return static_cast<pid_t>(syscall(SYS_gettid));
#else
  return 0;
#endif
}

}  // namespace

// While it lives, the workers that sleep wake up on other CPUs than this one. Linux often puts a thread that
// is woken behind the one that wakes it, on the same CPU, though another has nothing to do; there it stays
// until its time has come, some milliseconds later, and all that while the caller does the work alone.
// Afterwards they may run where their caller may.
class ThreadPool::WakingElsewhere {
#if defined(__linux__)
 public:
  explicit WakingElsewhere(const ThreadPool& pool) : pool_(pool) {
    for (const auto& worker : pool.workers_) {
      if (!worker->asleep.load(std::memory_order_acquire)) continue;
      if (count_ == 0 && !find_others()) return;
      ++count_;
      sched_setaffinity(worker->id.load(std::memory_order_relaxed), sizeof others_, &others_);
    }
  }
  ~WakingElsewhere() {
    if (count_ == 0) return;
    for (const auto& worker : pool_.workers_) {
      if (const pid_t id = worker->id.load(std::memory_order_relaxed); id != 0) {
        sched_setaffinity(id, sizeof allowed_, &allowed_);
      }
    }
  }
  WakingElsewhere(const WakingElsewhere&) = delete;
  WakingElsewhere& operator=(const WakingElsewhere&) = delete;

 private:
  // False where the caller may run nowhere but here, or the system does not tell.
  bool find_others() {
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) return false;
    others_ = allowed_;
    CPU_CLR(static_cast<std::size_t>(cpu), &others_);
    return CPU_COUNT(&others_) > 0;
  }

  const ThreadPool& pool_;
  int count_ = 0;
  cpu_set_t allowed_{}, others_{};
#else
 public:
  explicit WakingElsewhere(const ThreadPool&) {}
#endif
};

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
  {
    const WakingElsewhere elsewhere(*this);
    round_.notify_all();
  }
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
    }
    seen = round_.load(std::memory_order_acquire);
    take_part();
  }
}

}  // namespace pyconv
