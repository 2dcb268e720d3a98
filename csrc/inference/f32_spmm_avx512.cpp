#define BILLHOOK_NAMESPACE avx512
#include "f32_spmm_kernel.h"
