#define BILLHOOK_NAMESPACE avx512
#include "lstm_kernel.h"
