// Instruction sets the kernels are compiled for: one table, a set and not a ladder.
//
// A processor supports any subset of them: AVX-VNNI and AVX-512 VNNI do not imply each other, and NEON
// implies none. A new one is a value here, a row of the table in isa.cpp, a `*_<name>.cpp` beside
// each kernel that has a version for it, and its compile flags in CMakeLists.txt. Python asks for the
// table (src/billhook/native.py), it has no list of its own.
#pragma once
#include <cstdint>
#include <initializer_list>

namespace billhook {

// Positions in the table. Of two sets that a processor runs, kernels prefer the later one.
enum Isa : int64_t {
  kPortable = 0,
  kAvx2 = 1,        // with FMA and F16C
  kAvx512 = 2,      // F, BW, DQ and VL, with AVX2
  kAvxVnni = 3,     // 256-bit vpdpbusd in VEX encoding, with AVX2
  kAvx512Vnni = 4,  // 512-bit vpdpbusd, with kAvx512
  kAvx512Vbmi = 5,  // vpermb and vpexpandb (VBMI and VBMI2), with kAvx512Vnni
  kNeonDot = 6,     // 128-bit sdot (dotprod of ARMv8.2)
  kIsaCount = 7
};

// The name of an instruction set in files, plans and reports; null for what is not in the table.
const char* name_of(int64_t isa);

// Whether this processor runs the kernels of an instruction set.
bool supports(int64_t isa);

// The instruction set that a set extends and whose kernels it runs too; kPortable of those that
// extend none, and of what is not in the table.
Isa extended_by(int64_t isa);

// Floats in a vector of the fp32 kernels that run for a set.
int64_t lanes_of(int64_t isa);

// Whether a set has kernels of its own in 8 bits, or else in fp32.
bool has_kernels(int64_t isa, bool int8);

// The best instruction set of these kernels that this processor runs.
Isa best_isa(bool int8 = false);

template <typename Kernel>
struct Version {
  Isa isa;
  Kernel kernel;
};

// Of a kernel's versions the one for `isa`, or else for the nearest set that it extends. The first
// one is portable.
template <typename Kernel>
Kernel version_for(int64_t isa, std::initializer_list<Version<Kernel>> versions) {
  for (; isa != kPortable; isa = extended_by(isa))
    for (const Version<Kernel>& version : versions)
      if (version.isa == isa) return version.kernel;
  return versions.begin()->kernel;
}

// Versions that only compilers for one kind of processor make.
#if defined(__x86_64__)
#define BILLHOOK_X86(...) , __VA_ARGS__
#else
#define BILLHOOK_X86(...)
#endif
#if defined(__aarch64__)
#define BILLHOOK_ARM(...) , __VA_ARGS__
#else
#define BILLHOOK_ARM(...)
#endif

// The same of an fp32 kernel's three versions, which have one name in three namespaces.
#define BILLHOOK_FP32(Kernel, name, isa)                                \
  version_for<Kernel>(isa, {{kPortable, portable::name}, {kAvx2, avx2::name}, \
                            {kAvx512, avx512::name}})

}  // namespace billhook
