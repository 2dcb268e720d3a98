#define BILLHOOK_NAMESPACE avx512
#include "f32_reduce_kernel.h"
