#define BILLHOOK_NAMESPACE portable
#include "f32_pool_kernel.h"
