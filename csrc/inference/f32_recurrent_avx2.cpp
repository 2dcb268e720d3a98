#define BILLHOOK_NAMESPACE avx2
#include "f32_recurrent_kernel.h"
