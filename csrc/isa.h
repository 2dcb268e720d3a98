// Instruction sets the kernels are compiled for. A new one (NEON) is a value here, a line in isa.cpp,
// a `*_<name>.cpp` beside each kernel and its compile flags in CMakeLists.txt.
#pragma once
#include <cstdint>

namespace billhook {

enum Isa : int64_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2 };

// The best instruction set this processor runs; kAvx2 implies FMA, kAvx512 F, BW, DQ and VL.
Isa best_isa();

// Of a kernel's versions the one for `isa`.
template <typename Kernel>
Kernel version_for([[maybe_unused]] int64_t isa, Kernel portable, [[maybe_unused]] Kernel avx2,
                   [[maybe_unused]] Kernel avx512) {
#if defined(__x86_64__)
  if (isa == kAvx512) return avx512;
  if (isa == kAvx2) return avx2;
#endif
  return portable;
}

}  // namespace billhook
