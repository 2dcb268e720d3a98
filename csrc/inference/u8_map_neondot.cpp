#if defined(__ARM_FEATURE_DOTPROD)
#define BILLHOOK_SIGNED
#define BILLHOOK_NAMESPACE neondot
#include "u8_map_kernel.h"
#endif
