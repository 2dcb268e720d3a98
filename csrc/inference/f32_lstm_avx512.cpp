#define BILLHOOK_NAMESPACE avx512
#include "f32_lstm_kernel.h"
