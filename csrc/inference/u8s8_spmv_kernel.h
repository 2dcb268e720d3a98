// The kernel of u8s8_spmv.h for groups of rows, for the instruction set of the file that includes it.
#include "u8_map.h"
#include "u8_vec.h"
#include "u8s8_spmv.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

constexpr int kPack = 16;
constexpr int kParts = kPack / kPixels;  // vectors of a pack

#if defined(BILLHOOK_WORDS)

// The operand as words: of each quad bytes 0 and 2, then 1 and 3. Of `columns` bytes, readable as the
// vectors that hold them.
const uint8_t* widened(const uint8_t* x, int64_t columns) {
  uint8_t* y = byte_scratch(kWordSlot, word_bytes(columns));
  for (int64_t i = 0; i < columns; i += 32) {
    const Operand words = operand(load(x + i));
    const __m256i low = _mm256_unpacklo_epi32(words.even, words.odd);
    const __m256i high = _mm256_unpackhi_epi32(words.even, words.odd);
    store(y + 2 * i, _mm256_permute2x128_si256(low, high, 0x20));
    store(y + 2 * i + 32, _mm256_permute2x128_si256(low, high, 0x31));
  }
  return y;
}

// The operand of part `part` of a step: four numbers for each of its rows. A gather takes three times as
// long as eight loads on processors that have no better vectors than these.
template <int R>
BILLHOOK_INLINE Operand operand_for(const uint8_t* x, const uint16_t* column, int part) {
  column += part * kPixels / R;
  const auto even = [&](int64_t c) {
    int32_t two;
    std::memcpy(&two, x + 8 * c, sizeof two);
    return two;
  };
  const auto odd = [&](int64_t c) {
    int32_t two;
    std::memcpy(&two, x + 8 * c + 4, sizeof two);
    return two;
  };
  if constexpr (R >= 8) return {splat(even(column[0])), splat(odd(column[0]))};
  if constexpr (R == 4)
    return {_mm256_set_m128i(_mm_set1_epi32(even(column[1])), _mm_set1_epi32(even(column[0]))),
            _mm256_set_m128i(_mm_set1_epi32(odd(column[1])), _mm_set1_epi32(odd(column[0])))};
  uint64_t columns[2];
  std::memcpy(columns, column, sizeof columns);
  const auto quads = [&](int i) {  // i and i + 1
    int64_t q[2];
    for (int k = 0; k < 2; ++k)
      std::memcpy(q + k, x + 8 * (columns[i / 4] >> 16 * ((i + k) % 4) & 0xffff), sizeof q[k]);
    return _mm_set_epi64x(q[1], q[0]);
  };
  const __m256 first = as_floats(_mm256_set_m128i(quads(4), quads(0)));
  const __m256 second = as_floats(_mm256_set_m128i(quads(6), quads(2)));
  return {_mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88)),
          _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd))};
}

BILLHOOK_INLINE Weights stored_weights(const int8_t* p) {
  const auto words = [](const int8_t* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  };
  return {words(p), words(p + 16)};
}

#else

BILLHOOK_INLINE const uint8_t* widened(const uint8_t* x, int64_t) { return x; }

BILLHOOK_INLINE Weights stored_weights(const int8_t* p) { return weights(load(p)); }

BILLHOOK_INLINE int32_t four_at(const uint8_t* x, int64_t column) {
  int32_t four;
  std::memcpy(&four, x + 4 * column, sizeof four);
  return four;
}

// The operand of part `part` of a step: four bytes for each of its rows.
template <int R>
BILLHOOK_INLINE Operand operand_for(const uint8_t* x, const uint16_t* column,
                                    [[maybe_unused]] int part) {
#if BILLHOOK_LANES == 4
  if constexpr (R == 1) {
    const __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column));
    return _mm512_i32gather_epi32(_mm512_cvtepu16_epi32(columns), x, 4);
  }
  Bytes v = splat(four_at(x, column[0]));
  if constexpr (R == 8) v = _mm512_mask_set1_epi32(v, 0xff00, four_at(x, column[1]));
  if constexpr (R == 4) {
    v = _mm512_mask_set1_epi32(v, 0x00f0, four_at(x, column[1]));
    v = _mm512_mask_set1_epi32(v, 0x0f00, four_at(x, column[2]));
    v = _mm512_mask_set1_epi32(v, 0xf000, four_at(x, column[3]));
  }
  return v;
#elif BILLHOOK_LANES == 2
  column += part * kPixels / R;
  if constexpr (R == 1) {
    const __m128i columns = _mm_loadu_si128(reinterpret_cast<const __m128i*>(column));
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(x),
                                  _mm256_cvtepu16_epi32(columns), 4);
  }
  if constexpr (R == 4)
    return _mm256_set_m128i(_mm_set1_epi32(four_at(x, column[1])),
                            _mm_set1_epi32(four_at(x, column[0])));
  return splat(four_at(x, column[0]));
#else
  int32_t fours[kPixels];
  for (int p = 0; p < kPixels; ++p) fours[p] = four_at(x, column[(part * kPixels + p) / R]);
  return operand(load(fours));
#endif
}

#endif

template <int R>
void packs(const VectorRows& w, int64_t first, int64_t last, const uint8_t* x, float step,
           float* y) {
  constexpr int kColumns = kPack / R, kChains = 4 / kParts < 1 ? 1 : 4 / kParts;
  for (int64_t pack = first; pack < last; ++pack) {
    Sums sums[kChains][kParts];
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i)
      for (int c = 0; c < kChains; ++c)
        sums[c][i] = c == 0 ? load_sums(w.bias + kPack * pack + kPixels * i) : splat(0);
    int64_t s = w.ptr[pack];
    const int64_t end = w.ptr[pack + 1];
    const int8_t* value = w.value + 64 * s;
    const uint16_t* column = w.column + kColumns * s;
    for (; s + kChains <= end; s += kChains, value += 64 * kChains, column += kColumns * kChains) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 4
        for (int i = 0; i < kParts; ++i)
          dot(sums[c][i], operand_for<R>(x, column + kColumns * c, i),
              stored_weights(value + 64 * c + 4 * kPixels * i));
        __builtin_prefetch(value + 1024 + 64 * c);
      }
    }
    for (; s < end; ++s, value += 64, column += kColumns)
#pragma GCC unroll 4
      for (int i = 0; i < kParts; ++i)
        dot(sums[0][i], operand_for<R>(x, column, i), stored_weights(value + 4 * kPixels * i));
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      for (int c = 1; c < kChains; ++c) sums[0][i] = add(sums[0][i], sums[c][i]);
      const int64_t at = kPack * pack + kPixels * i;
      Floats v = multiply(to_floats(sums[0][i]), load_floats(w.scale + at));
      v = multiply(v, splat_float(step));
      if (w.offset != nullptr) v = add(v, load_floats(w.offset + at));
      float out[kPixels];
      store_floats(out, v);
      const int32_t* row = w.row + at;
      if (R >= kPixels && row[kPixels - 1] >= 0) {  // rows of a group are in order
        store_floats(y + row[0], v);
        continue;
      }
      for (int p = 0; p < kPixels; ++p)
        if (row[p] >= 0) y[row[p]] = out[p];
    }
  }
}

}  // namespace

void u8s8_spmv(const VectorRows& w, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y) {
  x = widened(x, w.columns);
  (w.group == 1   ? packs<1>
   : w.group == 4 ? packs<4>
   : w.group == 8 ? packs<8>
                  : packs<16>)(w, first, last, x, step, y);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
