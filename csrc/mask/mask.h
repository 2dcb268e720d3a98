// Applying one-bit masks in place.
#pragma once
#include <cstdint>

namespace billhook {

using ZeroMasked32 = void (*)(uint32_t* data, int64_t n, const uint8_t* bits);
void zero_masked32_portable(uint32_t*, int64_t, const uint8_t*);
void zero_masked32_avx2(uint32_t*, int64_t, const uint8_t*);

}  // namespace billhook
