#include "mask.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace billhook {

// Memory traffic is all there is to this kernel, so a vector that is zero already where it has to
// be is not written back: held weights cost one read.
void zero_masked32_avx2(uint32_t* data, int64_t n, const uint8_t* bits) {
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    auto* place = reinterpret_cast<__m256i*>(data + i);
    const __m256i byte = _mm256_set1_epi32(bits[i >> 3]);
    const __m256i keep = _mm256_cmpeq_epi32(_mm256_and_si256(byte, lanes), lanes);
    const __m256i value = _mm256_loadu_si256(place);
    if (!_mm256_testc_si256(keep, value)) _mm256_storeu_si256(place, _mm256_and_si256(keep, value));
  }
  zero_masked32_portable(data + i, n - i, bits + (i >> 3));
}

}  // namespace billhook
#else
namespace billhook {
void zero_masked32_avx2(uint32_t* data, int64_t n, const uint8_t* bits) {
  zero_masked32_portable(data, n, bits);
}
}  // namespace billhook
#endif
