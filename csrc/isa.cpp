#include "isa.h"

#include "abi.h"

namespace billhook {

Isa best_isa() {
#if defined(BILLHOOK_HAS_AVX2)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kPortable;
}

}  // namespace billhook

BILLHOOK_API int64_t billhook_isa() { return billhook::best_isa(); }
