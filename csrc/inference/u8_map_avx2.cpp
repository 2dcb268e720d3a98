#define BILLHOOK_WORDS
#define BILLHOOK_NAMESPACE avx2
#include "u8_map_kernel.h"
