#include "abi.h"

BILLHOOK_API int64_t billhook_abi_version() { return BILLHOOK_ABI_VERSION; }
