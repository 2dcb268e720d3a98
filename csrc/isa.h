// Instruction sets the kernels are compiled for. A new one (AVX-512, NEON) is a value here, a line
// in isa.cpp, a `*_<name>.cpp` beside each kernel and its compile flags in CMakeLists.txt.
#pragma once
#include <cstdint>

namespace billhook {

enum Isa : int64_t { kPortable = 0, kAvx2 = 1 };

// The best instruction set this processor runs; kAvx2 implies FMA.
Isa best_isa();

#if defined(__x86_64__)
#define BILLHOOK_HAS_AVX2 1
#endif

}  // namespace billhook
