#define BILLHOOK_NAMESPACE portable
#include "spmm_kernel.h"
