#include "base/fork_safe_mutex.h"

#include <pthread.h>

namespace pyconv {

std::mutex& fork_safe_mutex() {
  static std::mutex& mutex = []() -> std::mutex& {
    // Never destroyed: threads may still run when the process exits.
    static std::mutex& made = *new std::mutex;
    pthread_atfork([] { made.lock(); }, [] { made.unlock(); }, [] { made.unlock(); });
    return made;
  }();
  return mutex;
}

}  // namespace pyconv
