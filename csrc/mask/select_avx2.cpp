#include "select.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace billhook {

namespace {

// order_key() with the top bit flipped, so that AVX2's signed comparison has the same order.
inline __m256i signed_key(__m256i bits) {
  const __m256i minus_zero = _mm256_set1_epi32(INT32_MIN);
  bits = _mm256_andnot_si256(_mm256_cmpeq_epi32(bits, minus_zero), bits);
  const __m256i flip = _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1);
  return _mm256_xor_si256(bits, flip);
}

inline __m256i signed_limit(uint32_t key) {
  return _mm256_set1_epi32(static_cast<int32_t>(key ^ 0x80000000u));
}

}  // namespace

void scan_bracket_avx2(const float* scores, int64_t begin, int64_t n, Bracket& bracket,
                       uint8_t* keep_out) {
  const __m256i low = signed_limit(bracket.low), high = signed_limit(bracket.high);
  __m256i unordered = _mm256_setzero_si256();
  int64_t i = begin;
  for (; i + 8 <= n && bracket.found <= bracket.capacity; i += 8) {
    const __m256 score = _mm256_loadu_ps(scores + i);
    const __m256i key = signed_key(_mm256_castps_si256(score));
    unordered = _mm256_or_si256(
        unordered, _mm256_castps_si256(_mm256_cmp_ps(score, score, _CMP_UNORD_Q)));
    const __m256i above = _mm256_cmpgt_epi32(key, high);
    const __m256i outside = _mm256_or_si256(above, _mm256_cmpgt_epi32(low, key));
    if (_mm256_movemask_epi8(outside) != -1) {  // rare
      scan_bracket_portable(scores, i, i + 8, bracket, keep_out);
      continue;
    }
    bracket.above += __builtin_popcount(_mm256_movemask_ps(_mm256_castsi256_ps(above)));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(above),
                                          _mm256_extracti128_si256(above, 1));
    const __m128i bytes = _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(keep_out + i), bytes);
  }
  bracket.nan |= !_mm256_testz_si256(unordered, unordered);
  if (bracket.found <= bracket.capacity) scan_bracket_portable(scores, i, n, bracket, keep_out);
}

}  // namespace billhook
#else
namespace billhook {
void scan_bracket_avx2(const float* scores, int64_t begin, int64_t n, Bracket& bracket,
                       uint8_t* keep_out) {
  scan_bracket_portable(scores, begin, n, bracket, keep_out);
}
}  // namespace billhook
#endif
