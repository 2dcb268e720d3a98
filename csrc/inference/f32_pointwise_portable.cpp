#define BILLHOOK_NAMESPACE portable
#include "f32_pointwise_kernel.h"
