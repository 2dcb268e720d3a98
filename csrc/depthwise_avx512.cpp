#define BILLHOOK_NAMESPACE avx512
#include "depthwise_kernel.h"
