#define BILLHOOK_NAMESPACE avx2
#include "f32_product_kernel.h"
