#define BILLHOOK_NAMESPACE avx2
#include "depthwise_kernel.h"
