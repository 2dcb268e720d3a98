#define BILLHOOK_NAMESPACE avx2
#include "f32_spmv_kernel.h"
