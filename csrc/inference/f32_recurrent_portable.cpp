#define BILLHOOK_NAMESPACE portable
#include "f32_recurrent_kernel.h"
