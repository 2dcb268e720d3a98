#define BILLHOOK_NAMESPACE portable
#include "pool_kernel.h"
