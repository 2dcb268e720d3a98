#include "isa.h"

#include "abi.h"

namespace billhook {

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return kAvx512;
  if (avx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace billhook

BILLHOOK_API int64_t billhook_isa() { return billhook::best_isa(); }
