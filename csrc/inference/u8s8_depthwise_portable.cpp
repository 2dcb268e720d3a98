#define BILLHOOK_PORTABLE
#define BILLHOOK_NAMESPACE portable
#include "u8s8_depthwise_kernel.h"
