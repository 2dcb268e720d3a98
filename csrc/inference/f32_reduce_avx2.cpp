#define BILLHOOK_NAMESPACE avx2
#include "f32_reduce_kernel.h"
