#define BILLHOOK_NAMESPACE avx512vnni
#include "u8_map_kernel.h"
