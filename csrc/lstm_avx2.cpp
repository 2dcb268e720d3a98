#define BILLHOOK_NAMESPACE avx2
#include "lstm_kernel.h"
