#define BILLHOOK_NAMESPACE portable
#include "f32_product_kernel.h"
