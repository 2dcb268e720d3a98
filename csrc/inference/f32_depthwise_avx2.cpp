#define BILLHOOK_NAMESPACE avx2
#include "f32_depthwise_kernel.h"
