#define BILLHOOK_NAMESPACE portable
#include "lstm_kernel.h"
