#define BILLHOOK_NAMESPACE avxvnni
#include "u8s8_spmv_kernel.h"
