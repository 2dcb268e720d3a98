#define BILLHOOK_NAMESPACE avx512
#include "f32_product_kernel.h"
