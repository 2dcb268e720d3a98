// Instruction sets the kernels are compiled for: one table, a set and not a ladder.
//
// A processor supports any subset of them: AVX-VNNI and AVX-512 VNNI do not imply each other, and NEON
// implies none. A new one is a value here, a row of the table in isa.cpp, a `*_<name>.cpp` beside
// each kernel that has a version for it, and its compile flags in CMakeLists.txt.
#pragma once
#include <cstdint>

namespace billhook {

// Positions in the table. The fp32 kernels have versions for the first three.
enum Isa : int64_t {
  kPortable = 0,
  kAvx2 = 1,        // with FMA and F16C
  kAvx512 = 2,      // F, BW, DQ and VL, with AVX2
  kAvxVnni = 3,     // 256-bit vpdpbusd in VEX encoding, with AVX2
  kAvx512Vnni = 4,  // 512-bit vpdpbusd, with kAvx512
  kAvx512Vbmi = 5,  // vpermb and vpexpandb (VBMI and VBMI2), with kAvx512Vnni
  kIsaCount = 6
};

// Whether this processor runs the kernels of an instruction set.
bool supports(int64_t isa);

// The best instruction set of the fp32 kernels that this processor runs.
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

// The same for the kernels in 8 bits.
template <typename Kernel>
Kernel u8_version_for([[maybe_unused]] int64_t isa, Kernel portable, [[maybe_unused]] Kernel avx2,
                      [[maybe_unused]] Kernel avxvnni, [[maybe_unused]] Kernel avx512vnni) {
#if defined(__x86_64__)
  if (isa == kAvx512Vnni || isa == kAvx512Vbmi) return avx512vnni;
  if (isa == kAvxVnni) return avxvnni;
  if (isa == kAvx2 || isa == kAvx512) return avx2;
#endif
  return portable;
}

}  // namespace billhook
