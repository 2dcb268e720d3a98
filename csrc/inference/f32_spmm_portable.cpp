#define BILLHOOK_NAMESPACE portable
#include "f32_spmm_kernel.h"
