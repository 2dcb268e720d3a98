#include "isa.h"

#include "abi.h"
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace billhook {

namespace {

struct InstructionSet {
  const char* name;  // of files, plans and reports
  bool (*supported)();
  Isa extends;
  int64_t lanes;  // floats in a vector
  bool fp32;      // has kernels in fp32 of its own
  bool int8;      // has kernels in 8 bits of its own
};

bool always() { return true; }

#if defined(__aarch64__) && defined(__linux__)
bool neondot() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#elif defined(__aarch64__) && defined(__APPLE__)
bool neondot() { return true; }  // of every processor of these machines
#else
bool neondot() { return false; }
#endif

#if defined(__x86_64__)
bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool avx512() {
  return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool avxvnni() { return avx2() && __builtin_cpu_supports("avxvnni"); }
bool avx512vnni() { return avx512() && __builtin_cpu_supports("avx512vnni"); }
bool avx512vbmi() {
  return avx512vnni() && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vbmi2");
}
#else
bool never() { return false; }
constexpr auto avx2 = never, avx512 = never, avxvnni = never, avx512vnni = never,
               avx512vbmi = never;
#endif

constexpr InstructionSet kTable[kIsaCount] = {
    {"portable", always, kPortable, 8, true, true},
    {"avx2", avx2, kPortable, 8, true, true},
    {"avx512", avx512, kAvx2, 16, true, false},
    {"avxvnni", avxvnni, kAvx2, 8, false, true},
    {"avx512vnni", avx512vnni, kAvx512, 16, false, true},
    {"avx512vbmi", avx512vbmi, kAvx512Vnni, 16, false, true},
    {"neondot", neondot, kPortable, 8, false, true},
};

bool in_table(int64_t isa) { return isa >= 0 && isa < kIsaCount; }

}  // namespace

const char* name_of(int64_t isa) { return in_table(isa) ? kTable[isa].name : nullptr; }

bool supports(int64_t isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  return in_table(isa) && kTable[isa].supported();
}

Isa extended_by(int64_t isa) { return in_table(isa) ? kTable[isa].extends : kPortable; }

int64_t lanes_of(int64_t isa) { return kTable[in_table(isa) ? isa : kPortable].lanes; }

bool has_kernels(int64_t isa, bool int8) {
  return in_table(isa) && (int8 ? kTable[isa].int8 : kTable[isa].fp32);
}

Isa best_isa(bool int8) {
  int64_t best = kIsaCount - 1;
  while (!has_kernels(best, int8) || !supports(best)) --best;
  return static_cast<Isa>(best);
}

}  // namespace billhook

// The best instruction set of the fp32 kernels that this processor runs, a row of the table.
BILLHOOK_API int64_t billhook_isa() { return billhook::best_isa(); }

// The name of row `isa` of the table, null beyond its end.
BILLHOOK_API const char* billhook_isa_name(int64_t isa) {
  return billhook::name_of(isa);
}

// 1 if this processor runs the kernels of row `isa`, else 0.
BILLHOOK_API int64_t billhook_isa_supported(int64_t isa) { return billhook::supports(isa); }

// The row that row `isa` extends: a processor of the one runs the other's kernels too.
BILLHOOK_API int64_t billhook_isa_extends(int64_t isa) { return billhook::extended_by(isa); }

// Floats in a vector of the fp32 kernels of row `isa`.
BILLHOOK_API int64_t billhook_isa_lanes(int64_t isa) { return billhook::lanes_of(isa); }

// Which kernels row `isa` has of its own: 1 for fp32, 2 for 8 bits, 3 for both.
BILLHOOK_API int64_t billhook_isa_kernels(int64_t isa) {
  if (!billhook::in_table(isa)) return 0;
  return billhook::kTable[isa].fp32 + 2 * billhook::kTable[isa].int8;
}
