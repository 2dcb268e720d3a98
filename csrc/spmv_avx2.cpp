#define BILLHOOK_NAMESPACE avx2
#include "spmv_kernel.h"
