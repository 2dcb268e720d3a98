#define BILLHOOK_NAMESPACE avx2
#include "f32_lstm_kernel.h"
