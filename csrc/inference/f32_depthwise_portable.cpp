#define BILLHOOK_NAMESPACE portable
#include "f32_depthwise_kernel.h"
