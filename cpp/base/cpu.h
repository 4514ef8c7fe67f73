// What this CPU can run.
#pragma once

#include <cstddef>

namespace pyconv {

// Whether the CPU and the operating system support the instructions of a level.
bool cpu_has_avx2();    // AVX2, FMA, F16C
bool cpu_has_avx512();  // AVX-512 F, BW, DQ, VL, and all of the above

// Whether a core by itself reads ahead of what is read in order, to the end of a large page, as fast as its
// third-level cache gives it. There, software that asks for it too only gets in the way: 75 in place of
// 100 GB/s on a Zen 4.
bool cpu_fetches_far_ahead();

// Bytes of the second-level cache of a core, or 512 KiB where the system does not tell.
std::size_t l2_cache_bytes();

}  // namespace pyconv
