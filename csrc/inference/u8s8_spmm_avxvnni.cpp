#define BILLHOOK_NAMESPACE avxvnni
#include "u8s8_spmm_kernel.h"
