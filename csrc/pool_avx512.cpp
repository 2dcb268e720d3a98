#define BILLHOOK_NAMESPACE avx512
#include "pool_kernel.h"
