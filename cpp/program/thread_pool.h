// Threads that wait for short, parallel tasks.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pyconv {

// A caller and `threads - 1` workers. A worker that has just finished spins for some tens of microseconds,
// so that the steps of one network follow each other without a call into the kernel, and then sleeps, so
// that an idle process costs nothing.
class ThreadPool {
 public:
  // The process's pool of that many threads; made at the first call, and never destroyed, because workers
  // may still run when the process exits.
  static ThreadPool& of(int threads);

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(index) once for each index from 0 to threads() - 1 and returns when all are done. Whoever is
  // free takes the next index: where the other cores are busy with something else, the calling thread
  // does several, and never waits for a worker that has not begun. It does all of them where the pool is
  // busy with another caller's task, or belongs to the parent of a forked process. `task` must not throw.
  template <class Task>
  void run(const Task& task) {
    call([](const void* data, int index) { (*static_cast<const Task*>(data))(index); }, &task);
  }

 private:
  using Call = void (*)(const void* data, int index);

  struct Worker {
    std::atomic<bool> asleep{false};
    std::atomic<pid_t> id{0};  // of the thread, as the system counts them
    std::thread thread;
  };
  class WakingElsewhere;

  explicit ThreadPool(int threads);
  void call(Call function, const void* data);
  void work(Worker& worker);

  // Takes indices of the current task, and does them, until none is left.
  void take_part();

  std::mutex busy_;  // held by the caller whose task is running
  Call function_ = nullptr;
  const void* data_ = nullptr;
  // The task's number in the upper half, how many of its indices nobody has taken in the lower. Function
  // and data are read only by who has taken an index: they stay until that one is done.
  std::atomic<std::uint64_t> tickets_{0};
  std::atomic<std::uint32_t> round_{0};  // the task's number again, small enough to sleep on
  std::atomic<std::uint32_t> done_{0};   // indices
  pid_t process_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace pyconv
