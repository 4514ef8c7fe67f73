// A lock that a forked child finds open.
#pragma once

#include <mutex>

namespace pyconv {

// The process's mutex for lists that several threads share; hold it for some instructions only. When a
// process forks, only the thread that forks lives on in the child: a mutex that another thread held would
// stay locked there for ever, and what it guards half changed. So this one is taken before every fork, and
// released after it on both sides.
std::mutex& fork_safe_mutex();

}  // namespace pyconv
