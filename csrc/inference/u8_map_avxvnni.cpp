#define BILLHOOK_NAMESPACE avxvnni
#include "u8_map_kernel.h"
