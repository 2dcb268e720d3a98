#define BILLHOOK_NAMESPACE portable
#include "f32_lstm_kernel.h"
