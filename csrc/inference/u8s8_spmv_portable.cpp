#define BILLHOOK_PORTABLE
#define BILLHOOK_NAMESPACE portable
#include "u8s8_spmv_kernel.h"
