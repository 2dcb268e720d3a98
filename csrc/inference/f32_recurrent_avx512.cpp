#define BILLHOOK_NAMESPACE avx512
#include "f32_recurrent_kernel.h"
