#define BILLHOOK_NAMESPACE avxvnni
#include "u8s8_depthwise_kernel.h"
