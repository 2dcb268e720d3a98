#define BILLHOOK_NAMESPACE portable
#include "depthwise_kernel.h"
