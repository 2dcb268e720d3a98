#define BILLHOOK_NAMESPACE avx512vnni
#include "u8s8_depthwise_kernel.h"
