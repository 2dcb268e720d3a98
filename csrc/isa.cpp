#include "isa.h"

#include "abi.h"

// The best instruction set this processor runs: 0 portable, 1 AVX2 with FMA.
BILLHOOK_API int64_t billhook_isa() {
#if defined(BILLHOOK_HAS_AVX2)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return billhook::kAvx2;
#endif
  return billhook::kPortable;
}
