#define BILLHOOK_NAMESPACE avx512
#include "f32_depthwise_kernel.h"
