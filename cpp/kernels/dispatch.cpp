#include "kernels/dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/cpu.h"
#include "base/errors.h"

namespace pyconv::kernels {

namespace baseline {
const KernelTable& table();
}
#if defined(PYCONV_HAVE_avx2)
namespace avx2 {
const KernelTable& table();
}
#endif
#if defined(PYCONV_HAVE_avx512)
namespace avx512 {
const KernelTable& table();
}
#endif

const std::vector<const KernelTable*>& available() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found{&baseline::table()};
#if defined(PYCONV_HAVE_avx2)
    if (cpu_has_avx2()) found.push_back(&avx2::table());
#endif
#if defined(PYCONV_HAVE_avx512)
    if (cpu_has_avx512()) found.push_back(&avx512::table());
#endif
    return found;
  }();
  return tables;
}

const KernelTable& level(const std::string& name) {
  std::string names;
  for (const KernelTable* table : available()) {
    if (name == table->name) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw ArgumentError("the ISA level '" + name + "' is not available; this CPU and build have: " + names);
}

const KernelTable& selected() {
  static const KernelTable& table = [&]() -> const KernelTable& {
    const char* forced = std::getenv("PYCONV_ISA");
    if (forced == nullptr || *forced == '\0') return *available().back();
    try {
      return level(forced);
    } catch (const ArgumentError& error) {
      throw ArgumentError(std::string("the environment variable PYCONV_ISA: ") + error.what());
    }
  }();
  return table;
}

double peak_gflops(const KernelTable& table, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  constexpr std::int64_t kIterations = 100'000;
  const double operations = 2.0 * table.lanes * 12.0 * static_cast<double>(kIterations);
  double best = 0.0;
  volatile float sink = 0.0F;  // keeps the loop from being optimised away
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    sink = table.saturate(kIterations);
    best = std::max(best, operations / elapsed(start) * 1e-9);
  } while (elapsed(begin) < seconds);
  static_cast<void>(sink);
  return best;
}

}  // namespace pyconv::kernels
