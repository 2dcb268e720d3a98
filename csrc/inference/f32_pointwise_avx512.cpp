#define BILLHOOK_NAMESPACE avx512
#include "f32_pointwise_kernel.h"
