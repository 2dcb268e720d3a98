#define BILLHOOK_NAMESPACE avx512
#include "spmm_kernel.h"
