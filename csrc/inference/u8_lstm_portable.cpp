#define BILLHOOK_NAMESPACE portable
#include "u8_lstm_kernel.h"
