#define BILLHOOK_NAMESPACE avx2
#include "pool_kernel.h"
