#define BILLHOOK_NAMESPACE avx512
#include "f32_spmv_kernel.h"
