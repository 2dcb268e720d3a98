#define BILLHOOK_NAMESPACE portable
#include "spmv_kernel.h"
