// What this CPU can run.
#pragma once

#include <cstddef>

namespace pyconv {

// Whether the CPU and the operating system support the instructions of a level.
bool cpu_has_avx2();    // AVX2, FMA, F16C
bool cpu_has_avx512();  // AVX-512 F, BW, DQ, VL, and all of the above

// Bytes of the second-level cache of a core, or 512 KiB where the system does not tell.
std::size_t l2_cache_bytes();

}  // namespace pyconv
