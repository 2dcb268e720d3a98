#define BILLHOOK_NAMESPACE portable
#include "f32_reduce_kernel.h"
