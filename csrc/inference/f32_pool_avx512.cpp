#define BILLHOOK_NAMESPACE avx512
#include "f32_pool_kernel.h"
