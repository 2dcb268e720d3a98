#define BILLHOOK_NAMESPACE portable
#include "f32_spmv_kernel.h"
