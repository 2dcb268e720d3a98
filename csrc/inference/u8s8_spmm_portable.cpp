#define BILLHOOK_PORTABLE
#define BILLHOOK_NAMESPACE portable
#include "u8s8_spmm_kernel.h"
