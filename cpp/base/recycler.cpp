#include "base/recycler.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "base/fork_safe_mutex.h"

namespace pyconv {

AlignedBuffer Recycler::take(std::size_t count) {
  {
    const std::lock_guard lock(fork_safe_mutex());
    // The one given back last is the likeliest to be in a cache still.
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const AlignedBuffer& buffer) {
      return buffer.size() >= count && buffer.size() <= 2 * count;
    });
    if (found != kept_.rend()) {
      AlignedBuffer buffer = std::move(*found);
      kept_.erase(std::prev(found.base()));
      bytes_ -= buffer.size() * sizeof(float);
      return buffer;
    }
  }
  return AlignedBuffer(count);
}

void Recycler::give_back(AlignedBuffer buffer) noexcept {
  const std::lock_guard lock(fork_safe_mutex());
  const std::size_t bytes = buffer.size() * sizeof(float);
  try {
    kept_.push_back(std::move(buffer));
  } catch (const std::bad_alloc&) {
    return;
  }
  bytes_ += bytes;
  while (bytes_ > kMostBytes) {
    bytes_ -= kept_.front().size() * sizeof(float);
    kept_.pop_front();
  }
}

}  // namespace pyconv
