#include "apply.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace billhook {

namespace {

// Vectors of 32 bytes: all ones in each lane whose mask bit is 1.
template <int itemsize>
struct Lanes;

template <>
struct Lanes<2> {
  using Word = uint16_t;
  static constexpr int count = 16;
  static __m256i of(unsigned bits) {
    const __m256i lanes = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                            8192, 16384, INT16_MIN);
    const __m256i all = _mm256_set1_epi16(static_cast<int16_t>(bits));
    return _mm256_cmpeq_epi16(_mm256_and_si256(all, lanes), lanes);
  }
};

template <>
struct Lanes<4> {
  using Word = uint32_t;
  static constexpr int count = 8;
  static __m256i of(unsigned bits) {
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(bits));
    return _mm256_cmpeq_epi32(_mm256_and_si256(all, lanes), lanes);
  }
};

template <>
struct Lanes<8> {
  using Word = uint64_t;
  static constexpr int count = 4;
  static __m256i of(unsigned bits) {
    const __m256i lanes = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i all = _mm256_set1_epi64x(static_cast<int64_t>(bits));
    return _mm256_cmpeq_epi64(_mm256_and_si256(all, lanes), lanes);
  }
};

// The mask bits of the `count` elements from i on, a multiple of `count`.
template <int count>
inline unsigned bits_at(const uint8_t* bits, int64_t i) {
  if constexpr (count == 16) return bits[i >> 3] | static_cast<unsigned>(bits[(i >> 3) + 1]) << 8;
  if constexpr (count == 8) return bits[i >> 3];
  return bits[i >> 3] >> (i & 7) & 15u;
}

template <int itemsize>
inline __m256i* place(void* data, int64_t i) {
  return reinterpret_cast<__m256i*>(static_cast<char*>(data) + i * itemsize);
}

// Memory traffic is all there is to this, so a vector that is zero already where it has to be is not
// written back: weights held at zero cost one read.
template <int itemsize>
bool zero(void* data, int64_t begin, int64_t end, const uint8_t* bits) {
  using L = Lanes<itemsize>;
  bool found = false;
  int64_t i = begin;
  for (; i + L::count <= end; i += L::count) {
    const __m256i keep = L::of(bits_at<L::count>(bits, i));
    const __m256i value = _mm256_loadu_si256(place<itemsize>(data, i));
    if (_mm256_testc_si256(keep, value)) continue;
    found = true;
    _mm256_storeu_si256(place<itemsize>(data, i), _mm256_and_si256(keep, value));
  }
  return apply_portable(itemsize)->zero(data, i, end, bits) || found;
}

// Calls one(i, kept now) for every element whose mask bit changed, or many(i, before, now) for the
// vectors of 64 elements most of whose cache lines are touched anyway; returns where the 64s end.
// Between two updates few weights change: their addresses then follow from the bits alone, so loads
// and stores of many lines are under way at once.
template <int count, class One, class Many>
int64_t for_changed(int64_t begin, int64_t end, const Change& change, const One& one,
                    const Many& many) {
  constexpr int kFew = 8;
  int64_t i = begin;
  for (; i + 64 <= end; i += 64) {
    uint64_t before, now;
    __builtin_memcpy(&before, change.before + (i >> 3), 8);
    __builtin_memcpy(&now, change.now + (i >> 3), 8);
    uint64_t changed = before ^ now;
    if (__builtin_popcountll(changed) <= kFew) {
      for (; changed != 0; changed &= changed - 1) {
        const int lane = __builtin_ctzll(changed);
        one(i + lane, (now >> lane & 1) != 0);
      }
      continue;
    }
    for (int64_t j = 0; j < 64; j += count) {
      const auto was = static_cast<unsigned>(before >> j & ((1u << count) - 1));
      const auto is = static_cast<unsigned>(now >> j & ((1u << count) - 1));
      if (was != is) many(i + j, was, is);
    }
  }
  return i;
}

template <int itemsize>
void zero_leaving(void* data, int64_t begin, int64_t end, const Change& change) {
  using L = Lanes<itemsize>;
  auto* words = static_cast<typename L::Word*>(data);
  const auto one = [&](int64_t i, bool returns) {
    if (!returns) words[i] = 0;
  };
  const auto many = [&](int64_t i, unsigned was, unsigned is) {
    if ((was & ~is) == 0) return;
    __m256i* at = place<itemsize>(data, i);
    _mm256_storeu_si256(at, _mm256_andnot_si256(L::of(was & ~is), _mm256_loadu_si256(at)));
  };
  const int64_t rest = for_changed<L::count>(begin, end, change, one, many);
  apply_portable(itemsize)->zero_leaving(data, rest, end, change);
}

template <int itemsize>
void exchange(void* weight, void* aside, int64_t begin, int64_t end, const Change& change) {
  using L = Lanes<itemsize>;
  auto* weights = static_cast<typename L::Word*>(weight);
  auto* values = static_cast<typename L::Word*>(aside);
  const auto one = [&](int64_t i, bool returns) { exchange_one(weights, values, i, returns); };
  const auto many = [&](int64_t i, unsigned was, unsigned is) {
    __m256i* at = place<itemsize>(weight, i);
    __m256i* beside = place<itemsize>(aside, i);
    const __m256i raw = _mm256_blendv_epi8(_mm256_loadu_si256(beside), _mm256_loadu_si256(at),
                                           L::of(was));
    _mm256_storeu_si256(at, _mm256_and_si256(raw, L::of(is)));
    if ((was & ~is) != 0) _mm256_storeu_si256(beside, raw);
  };
  const int64_t rest = for_changed<L::count>(begin, end, change, one, many);
  apply_portable(itemsize)->exchange(weight, aside, rest, end, change);
}

}  // namespace

const Apply* apply_avx2(int64_t itemsize) {
  static constexpr Apply two{zero<2>, zero_leaving<2>, exchange<2>};
  static constexpr Apply four{zero<4>, zero_leaving<4>, exchange<4>};
  static constexpr Apply eight{zero<8>, zero_leaving<8>, exchange<8>};
  return itemsize == 2 ? &two : itemsize == 4 ? &four : itemsize == 8 ? &eight : nullptr;
}

}  // namespace billhook
#else
namespace billhook {
const Apply* apply_avx2(int64_t itemsize) { return apply_portable(itemsize); }
}  // namespace billhook
#endif
