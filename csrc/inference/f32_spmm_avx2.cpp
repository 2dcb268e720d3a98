#define BILLHOOK_NAMESPACE avx2
#include "f32_spmm_kernel.h"
