#define BILLHOOK_NAMESPACE avx2
#include "spmm_kernel.h"
