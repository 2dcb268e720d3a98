#define BILLHOOK_NAMESPACE avx2
#include "f32_pointwise_kernel.h"
