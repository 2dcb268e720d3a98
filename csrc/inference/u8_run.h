// Runs: neighbouring pixels of each channel of a lane, side by side, and `dot`, which multiplies them with taps.
// kRun of them are one product: the first four pixels of a lane as bytes, or for AVX2 two as words.
#pragma once
#include "u8_vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

#if defined(BILLHOOK_WORDS)
constexpr int kRun = 2;
typedef Bytes Run;
typedef Bytes Taps;
BILLHOOK_INLINE Run run(Bytes x) {
  return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                    0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1)));
}
BILLHOOK_INLINE Taps taps(const int8_t* p) { return splat_lane(p); }
// Assembly, because GCC would add products to each other first, and keep them in memory until then.
BILLHOOK_INLINE void dot(Sums& sums, Run x, Taps w) {
  asm("vpaddd %1, %0, %0" : "+x"(sums) : "x"(_mm256_madd_epi16(x, w)));
}
#else
constexpr int kRun = 4;
typedef Operand Run;
typedef Weights Taps;
BILLHOOK_INLINE Run run(Bytes x) { return operand(transpose(x)); }
BILLHOOK_INLINE Taps taps(const int8_t* p) { return weights(splat_lane(p)); }
#endif

}  // namespace billhook::BILLHOOK_NAMESPACE
