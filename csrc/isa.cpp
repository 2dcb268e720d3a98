#include "isa.h"

#include "abi.h"

namespace billhook {

namespace {

struct InstructionSet {
  const char* name;  // of files, plans and reports
  bool (*supported)();
};

bool always() { return true; }

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
    {"portable", always}, {"avx2", avx2},             {"avx512", avx512},
    {"avxvnni", avxvnni}, {"avx512vnni", avx512vnni}, {"avx512vbmi", avx512vbmi},
};

}  // namespace

bool supports(int64_t isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  return isa >= 0 && isa < kIsaCount && kTable[isa].supported();
}

Isa best_isa() { return supports(kAvx512) ? kAvx512 : supports(kAvx2) ? kAvx2 : kPortable; }

}  // namespace billhook

BILLHOOK_API int64_t billhook_isa() { return billhook::best_isa(); }

// The name of row `isa` of the table, null beyond its end.
BILLHOOK_API const char* billhook_isa_name(int64_t isa) {
  return isa >= 0 && isa < billhook::kIsaCount ? billhook::kTable[isa].name : nullptr;
}

// 1 if this processor runs the kernels of row `isa`, else 0.
BILLHOOK_API int64_t billhook_isa_supported(int64_t isa) { return billhook::supports(isa); }
