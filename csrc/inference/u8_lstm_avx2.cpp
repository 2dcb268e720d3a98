#define BILLHOOK_NAMESPACE avx2
#include "u8_lstm_kernel.h"
