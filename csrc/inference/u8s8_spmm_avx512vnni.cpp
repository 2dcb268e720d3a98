#define BILLHOOK_NAMESPACE avx512vnni
#include "u8s8_spmm_kernel.h"
