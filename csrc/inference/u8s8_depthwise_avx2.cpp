#define BILLHOOK_WORDS
#define BILLHOOK_NAMESPACE avx2
#include "u8s8_depthwise_kernel.h"
