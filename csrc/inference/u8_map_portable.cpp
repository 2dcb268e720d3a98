#define BILLHOOK_PORTABLE
#define BILLHOOK_NAMESPACE portable
#include "u8_map_kernel.h"
