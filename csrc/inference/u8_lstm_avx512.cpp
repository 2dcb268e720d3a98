#define BILLHOOK_NAMESPACE avx512
#include "u8_lstm_kernel.h"
