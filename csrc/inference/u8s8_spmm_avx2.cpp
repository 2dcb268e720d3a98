#define BILLHOOK_WORDS
#define BILLHOOK_NAMESPACE avx2
#include "u8s8_spmm_kernel.h"
