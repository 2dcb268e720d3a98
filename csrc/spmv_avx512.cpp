#define BILLHOOK_NAMESPACE avx512
#include "spmv_kernel.h"
