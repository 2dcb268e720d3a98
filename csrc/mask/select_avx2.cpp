#include "select.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace billhook {

namespace {

// Eight elements from i on as fp32 bits.
template <Kind kind>
inline __m256i load8(const void* data, int64_t i) {
  if constexpr (kind == kBfloat16) {
    const auto* half = reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(data) + i);
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(half)), 16);
  } else if constexpr (kind == kFloat16) {
    const auto* half = reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(data) + i);
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(half)));
  } else if constexpr (kind == kFloat64) {
    const double* wide = static_cast<const double*>(data) + i;
    return _mm256_castps_si256(_mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(wide + 4)),
                                               _mm256_cvtpd_ps(_mm256_loadu_pd(wide))));
  } else {
    return _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(static_cast<const float*>(data) + i));
  }
}

inline __m256i lanes_kept(uint8_t byte) {
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(byte), lanes), lanes);
}

// score_key() of eight.
inline __m256i score_keys(__m256i bits) {
  const __m256i minus_zero = _mm256_set1_epi32(INT32_MIN);
  bits = _mm256_andnot_si256(_mm256_cmpeq_epi32(bits, minus_zero), bits);
  return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
}

inline int lanes(__m256i mask) { return _mm256_movemask_ps(_mm256_castsi256_ps(mask)); }

// The lanes of four such masks, in order.
inline uint32_t lanes(const __m256i (&masks)[4]) {
  const __m256i halves = _mm256_packs_epi16(_mm256_packs_epi32(masks[0], masks[1]),
                                            _mm256_packs_epi32(masks[2], masks[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(halves, order)));
}

// Key and NaN test of eight elements from i on.
template <Kind kind>
inline __m256i keys8(const Raw& raw, int64_t i, __m256i& largest) {
  __m256i value = load8<kind>(raw.weight, i);
  __m256i absent = _mm256_setzero_si256();
  if (raw.held != nullptr) {
    const __m256i here = lanes_kept(raw.held[i >> 3]);
    if (raw.aside != nullptr) {
      value = _mm256_blendv_epi8(load8<kind>(raw.aside, i), value, here);
    } else {
      value = _mm256_and_si256(value, here);
      absent = _mm256_xor_si256(here, _mm256_set1_epi32(kAbsent));
    }
  }
  const __m256i magnitude = _mm256_and_si256(value, _mm256_set1_epi32(INT32_MAX));
  largest = _mm256_max_epi32(largest, magnitude);  // beyond infinity: a NaN
  return _mm256_or_si256(absent, kind == kScores ? score_keys(value) : magnitude);
}

template <Kind kind>
void scan_block(const Raw& raw, int64_t begin, int64_t end, Bracket bracket, int64_t room,
                Found& found, uint8_t* bits) {
  constexpr int64_t kGroup = 32, kPiece = 2048;
  const __m256i low = _mm256_set1_epi32(bracket.low), high = _mm256_set1_epi32(bracket.high);
  __m256i largest = _mm256_setzero_si256();
  Candidate inside[kPiece];
  int64_t i = begin, above_all = 0;
  while (i + kGroup <= end && static_cast<int64_t>(found.candidates.size()) <= room) {
    const int64_t stop = end - i < kPiece ? i + (end - i) / kGroup * kGroup : i + kPiece;
    int64_t count = 0;
    for (; i < stop; i += kGroup) {
      __m256i key[4], over[4], under[4];
      for (int64_t j = 0; j < 4; ++j) {
        key[j] = keys8<kind>(raw, i + 8 * j, largest);
        over[j] = _mm256_cmpgt_epi32(key[j], high);
        under[j] = _mm256_cmpgt_epi32(low, key[j]);
      }
      const uint32_t above = lanes(over);
      __builtin_memcpy(bits + (i >> 3), &above, sizeof above);
      above_all += __builtin_popcount(above);
      uint32_t between = ~(above | lanes(under));
      if (between == 0) continue;  // nearly always
      alignas(32) int32_t keys[kGroup];
      for (int64_t j = 0; j < 4; ++j) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(keys + 8 * j), key[j]);
      }
      for (; between != 0; between &= between - 1) {
        const int lane = __builtin_ctz(between);
        inside[count++] = {i + lane, keys[lane]};
      }
    }
    found.add(inside, count);
  }
  found.above += above_all;
  found.nan |= lanes(_mm256_cmpgt_epi32(largest, _mm256_set1_epi32(0x7f800000))) != 0;
  if (static_cast<int64_t>(found.candidates.size()) <= room && i < end) {
    scan_portable(kind)(raw, i, end, bracket, room, found, bits);
  }
}

}  // namespace

Scan scan_avx2(Kind kind) {
  constexpr Scan scans[] = {scan_block<kScores>, scan_block<kFloat32>, scan_block<kBfloat16>,
                            scan_block<kFloat16>, scan_block<kFloat64>};
  return scans[kind];
}

}  // namespace billhook
#else
namespace billhook {
Scan scan_avx2(Kind kind) { return scan_portable(kind); }
}  // namespace billhook
#endif
