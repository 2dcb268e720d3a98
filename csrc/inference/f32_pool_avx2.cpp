#define BILLHOOK_NAMESPACE avx2
#include "f32_pool_kernel.h"
