// Eight lanes of rANS at a time: words go to the lanes that need one in the order of the elements.
#if defined(__AVX2__)
#include <immintrin.h>

#include <array>

#include "rans.h"

namespace billhook::avx2 {

namespace {

constexpr int64_t kLanes = 8, kWords = 16;  // bytes that eight words take

// Of each set of lanes that need a word, which of the next words each one takes.
constexpr auto words_of_lanes() {
  std::array<std::array<uint8_t, kLanes>, 256> table{};
  for (unsigned set = 0; set < 256; ++set)
    for (unsigned lane = 0, next = 0; lane < kLanes; ++lane) {
      table[set][lane] = static_cast<uint8_t>(next);
      next += set >> lane & 1;
    }
  return table;
}
constexpr auto kWordOf = words_of_lanes();

int lanes_where(__m256i mask) {
  return _mm256_movemask_ps(_mm256_castsi256_ps(mask));
}

}  // namespace

int64_t rans_groups(RansStream& stream, int64_t element, const uint16_t* shares, int64_t count,
                    uint8_t* mask) {
  const __m256i slots = _mm256_set1_epi32((1 << kRansPrecision) - 1);
  const __m256i whole = _mm256_set1_epi32(1 << kRansPrecision), zero = _mm256_setzero_si256();
  const uint8_t* next = stream.next;
  int64_t i = 0;
  for (; i + kLanes <= count && stream.end - next >= kWords; i += kLanes) {
    auto* states = reinterpret_cast<__m256i*>(stream.states + ((element + i) & (stream.lanes - 1)));
    const __m256i state = _mm256_loadu_si256(states);
    const __m256i one = _mm256_cvtepu16_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(shares + i)));
    const __m256i slot = _mm256_and_si256(state, slots);
    const __m256i bit = _mm256_cmpgt_epi32(one, slot);
    const __m256i share = _mm256_blendv_epi8(_mm256_sub_epi32(whole, one), one, bit);
    const __m256i rest = _mm256_sub_epi32(slot, _mm256_andnot_si256(bit, one));
    __m256i now = _mm256_add_epi32(
        _mm256_mullo_epi32(share, _mm256_srli_epi32(state, kRansPrecision)), rest);
    const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(now, 16), zero);
    const int need = lanes_where(low);
    const __m256i words = _mm256_cvtepu16_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
    const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
        reinterpret_cast<const __m128i*>(kWordOf[static_cast<size_t>(need)].data())));
    const __m256i taken = _mm256_or_si256(_mm256_slli_epi32(now, 16),
                                          _mm256_permutevar8x32_epi32(words, order));
    now = _mm256_blendv_epi8(now, taken, low);
    _mm256_storeu_si256(states, now);
    next += 2 * __builtin_popcount(static_cast<unsigned>(need));
    mask[(element + i) >> 3] = static_cast<uint8_t>(lanes_where(bit));
  }
  stream.next = next;
  return i;
}

}  // namespace billhook::avx2

#endif
