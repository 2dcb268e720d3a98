// Vectors of pixels in 8 bits: kPixels pixels of four channels (a "quad") in one vector.
//
// Every 128-bit lane holds four pixels, and nearly all operations stay within lanes, so that the same
// kernels run on one lane (portable, NEON), two (AVX2, AVX-VNNI) and four (AVX-512 VNNI). A kernel file
// defines BILLHOOK_NAMESPACE before it includes this and is compiled once for each instruction set.
// What weights look like follows from the set that it is of, whatever else the compiler may use:
// BILLHOOK_PORTABLE, BILLHOOK_WORDS (AVX2) and BILLHOOK_SIGNED (NEON) say so.
//
// All sets give the same bits: sums are exact in 32 bits, and a sum becomes a byte by one conversion to
// float, multiplications and additions that are never contracted, and rounding half to even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(BILLHOOK_PORTABLE)
#define BILLHOOK_LANES 0
#elif defined(BILLHOOK_SIGNED)
#define BILLHOOK_LANES 1
#include <arm_neon.h>
#elif defined(__AVX512VNNI__) && !defined(BILLHOOK_WORDS)
#define BILLHOOK_LANES 4
#include <immintrin.h>
#elif defined(__AVX2__)
#define BILLHOOK_LANES 2
#include <immintrin.h>
#else
#define BILLHOOK_LANES 0
#undef BILLHOOK_WORDS
#endif

namespace billhook::BILLHOOK_NAMESPACE {

#define BILLHOOK_INLINE static inline __attribute__((always_inline))

// The byte that a value becomes: 0 where it is negative or NaN.
BILLHOOK_INLINE uint8_t saturated(float value) {
  if (!(value > 0.0f)) return 0;
  return value >= 255.0f ? 255 : static_cast<uint8_t>(lrintf(value));
}

// dot: adds four products of u8 and s8 to each sum. It takes bytes as `operand` and `weights` make them,
// so that what AVX2 needs to be exact is done once: it multiplies words, of even bytes and of odd ones.
// transpose: 4x4 bytes in each lane.
#if BILLHOOK_LANES == 4

constexpr int kPixels = 16;
typedef __m512i Bytes;
typedef __m512i Sums;
typedef __m512 Floats;
typedef __mmask16 PixelMask;

BILLHOOK_INLINE Bytes load(const void* p) { return _mm512_loadu_si512(p); }
BILLHOOK_INLINE void store(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
BILLHOOK_INLINE Sums splat(int32_t v) { return _mm512_set1_epi32(v); }
BILLHOOK_INLINE Floats splat_float(float v) { return _mm512_set1_ps(v); }
BILLHOOK_INLINE Bytes splat_lane(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
BILLHOOK_INLINE Floats as_floats(Bytes v) { return _mm512_castsi512_ps(v); }
// Assembly, because GCC copies the accumulators of the unrolled intrinsic.
BILLHOOK_INLINE void dot(Sums& sums, Bytes x, Bytes weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(weights));
}
BILLHOOK_INLINE Sums add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
BILLHOOK_INLINE Floats to_floats(Sums a) { return _mm512_cvtepi32_ps(a); }
BILLHOOK_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
BILLHOOK_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
BILLHOOK_INLINE Floats at_most(Floats a, Floats b) { return _mm512_min_ps(a, b); }
BILLHOOK_INLINE bool any_nan(Floats a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
BILLHOOK_INLINE Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
BILLHOOK_INLINE Sums rounded(Floats a) { return _mm512_cvtps_epi32(a); }
// Of each pixel byte `index` alone.
BILLHOOK_INLINE Sums channel(Bytes x, int index) {
  return _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * index)), splat(255));
}
BILLHOOK_INLINE Bytes transpose(Bytes x) {
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                    0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
// join: in each lane the four sums of s0 as bytes, saturated, then those of s1, s2, s3.
typedef __m512i Pair;
BILLHOOK_INLINE Pair pair(Sums s0, Sums s1) { return _mm512_packs_epi32(s0, s1); }
BILLHOOK_INLINE Bytes join(Pair s01, Pair s23) { return _mm512_packus_epi16(s01, s23); }
BILLHOOK_INLINE void store_floats(float* p, Floats v) { _mm512_storeu_ps(p, v); }
BILLHOOK_INLINE PixelMask pixels_between(int64_t first, int64_t last) {
  const uint32_t below = first <= 0 ? 0 : first >= 16 ? 0xffff : (1u << first) - 1;
  const uint32_t up_to = last <= 0 ? 0 : last >= 16 ? 0xffff : (1u << last) - 1;
  return static_cast<PixelMask>(up_to & ~below);
}
BILLHOOK_INLINE Bytes load_where(const uint8_t* p, PixelMask mask, Bytes otherwise) {
  return _mm512_mask_loadu_epi32(otherwise, mask, p);
}
BILLHOOK_INLINE void store_where(uint8_t* p, PixelMask mask, Bytes v) {
  _mm512_mask_storeu_epi32(p, mask, v);
}
// 64-bit parts in the order: even ones, odd ones.
BILLHOOK_INLINE Bytes evens_then_odds(Bytes v) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), v);
}
// What was joined, all of s0 before s1, s2 and s3.
BILLHOOK_INLINE void store_in_order(uint8_t* p, Bytes v) {
  store(p, _mm512_permutexvar_epi32(
               _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v));
}
// Every other pixel of two vectors.
BILLHOOK_INLINE Bytes even_pixels(const uint8_t* p) {
  return _mm512_permutex2var_epi32(
      load(p), _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
      load(p + 64));
}

#elif BILLHOOK_LANES == 2

constexpr int kPixels = 8;
typedef __m256i Bytes;
typedef __m256i Sums;
typedef __m256 Floats;
typedef __m256i PixelMask;

BILLHOOK_INLINE Bytes load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
BILLHOOK_INLINE void store(void* p, Bytes v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
BILLHOOK_INLINE Sums splat(int32_t v) { return _mm256_set1_epi32(v); }
BILLHOOK_INLINE Floats splat_float(float v) { return _mm256_set1_ps(v); }
BILLHOOK_INLINE Bytes splat_lane(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
BILLHOOK_INLINE Floats as_floats(Bytes v) { return _mm256_castsi256_ps(v); }
BILLHOOK_INLINE Sums add(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
#if !defined(BILLHOOK_WORDS)
BILLHOOK_INLINE void dot(Sums& sums, Bytes x, Bytes weights) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(x), "x"(weights));
}
#else
// Of bytes the even ones and the odd ones, as words: vpmaddubsw would saturate where it adds two.
struct Operand {
  Bytes even, odd;
};
struct Weights {
  Bytes even, odd;
};
BILLHOOK_INLINE Operand operand(Bytes x) {
  return {_mm256_and_si256(x, _mm256_set1_epi16(0x00ff)), _mm256_srli_epi16(x, 8)};
}
BILLHOOK_INLINE void dot(Sums& sums, const Operand& x, const Weights& w) {
  sums = add(sums, _mm256_madd_epi16(x.even, w.even));
  sums = add(sums, _mm256_madd_epi16(x.odd, w.odd));
}
#endif
BILLHOOK_INLINE Floats to_floats(Sums a) { return _mm256_cvtepi32_ps(a); }
BILLHOOK_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
BILLHOOK_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
BILLHOOK_INLINE Floats at_most(Floats a, Floats b) { return _mm256_min_ps(a, b); }
BILLHOOK_INLINE bool any_nan(Floats a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0;
}
BILLHOOK_INLINE Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
BILLHOOK_INLINE Sums rounded(Floats a) { return _mm256_cvtps_epi32(a); }
BILLHOOK_INLINE Sums channel(Bytes x, int index) {
  return _mm256_and_si256(_mm256_srl_epi32(x, _mm_cvtsi32_si128(8 * index)), splat(255));
}
BILLHOOK_INLINE Bytes transpose(Bytes x) {
  return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                    0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
typedef __m256i Pair;
BILLHOOK_INLINE Pair pair(Sums s0, Sums s1) { return _mm256_packs_epi32(s0, s1); }
BILLHOOK_INLINE Bytes join(Pair s01, Pair s23) { return _mm256_packus_epi16(s01, s23); }
BILLHOOK_INLINE void store_floats(float* p, Floats v) { _mm256_storeu_ps(p, v); }
BILLHOOK_INLINE PixelMask pixels_between(int64_t first, int64_t last) {
  const auto clip = [](int64_t n) { return static_cast<int>(n < 0 ? 0 : n > 8 ? 8 : n); };
  const __m256i pixel = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(splat(clip(first)), pixel),
                             _mm256_cmpgt_epi32(splat(clip(last)), pixel));
}
BILLHOOK_INLINE Bytes load_where(const uint8_t* p, PixelMask mask, Bytes otherwise) {
  const Bytes v = _mm256_maskload_epi32(reinterpret_cast<const int*>(p), mask);
  return _mm256_blendv_epi8(otherwise, v, mask);
}
BILLHOOK_INLINE void store_where(uint8_t* p, PixelMask mask, Bytes v) {
  _mm256_maskstore_epi32(reinterpret_cast<int*>(p), mask, v);
}
BILLHOOK_INLINE Bytes evens_then_odds(Bytes v) { return _mm256_permute4x64_epi64(v, 0xd8); }
BILLHOOK_INLINE void store_in_order(uint8_t* p, Bytes v) {
  store(p, _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}
BILLHOOK_INLINE Bytes even_pixels(const uint8_t* p) {
  const __m256 both = _mm256_shuffle_ps(as_floats(load(p)), as_floats(load(p + 32)), 0x88);
  return _mm256_permute4x64_epi64(_mm256_castps_si256(both), 0xd8);
}

#elif BILLHOOK_LANES == 1

constexpr int kPixels = 4;
typedef uint8x16_t Bytes;
typedef int32x4_t Sums;
typedef float32x4_t Floats;
struct PixelMask {
  int64_t first, last;
};
// Dot products are of s8 alone: an operand is its bytes less 128, for which biases make up.
typedef int8x16_t Operand;
typedef int8x16_t Weights;

BILLHOOK_INLINE Bytes load(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
BILLHOOK_INLINE void store(void* p, Bytes v) { vst1q_u8(static_cast<uint8_t*>(p), v); }
BILLHOOK_INLINE Sums splat(int32_t v) { return vdupq_n_s32(v); }
BILLHOOK_INLINE Bytes splat_bytes(int32_t v) { return vreinterpretq_u8_s32(vdupq_n_s32(v)); }
BILLHOOK_INLINE Floats splat_float(float v) { return vdupq_n_f32(v); }
BILLHOOK_INLINE Bytes splat_lane(const void* p) { return load(p); }
BILLHOOK_INLINE Floats as_floats(Bytes v) { return vreinterpretq_f32_u8(v); }
BILLHOOK_INLINE Sums sums_of(Bytes v) { return vreinterpretq_s32_u8(v); }
BILLHOOK_INLINE Operand operand(Bytes x) {
  return vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80)));
}
BILLHOOK_INLINE Weights weights(Bytes w) { return vreinterpretq_s8_u8(w); }
BILLHOOK_INLINE void dot(Sums& sums, Operand x, Weights w) { sums = vdotq_s32(sums, x, w); }
BILLHOOK_INLINE Sums add(Sums a, Sums b) { return vaddq_s32(a, b); }
BILLHOOK_INLINE Floats to_floats(Sums a) { return vcvtq_f32_s32(a); }
BILLHOOK_INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
BILLHOOK_INLINE Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
BILLHOOK_INLINE Floats at_most(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
BILLHOOK_INLINE bool any_nan(Floats a) { return vminvq_u32(vceqq_f32(a, a)) == 0; }
BILLHOOK_INLINE Floats load_floats(const float* p) { return vld1q_f32(p); }
BILLHOOK_INLINE Sums rounded(Floats a) { return vcvtnq_s32_f32(a); }
BILLHOOK_INLINE Sums channel(Bytes x, int index) {
  const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(x), vdupq_n_s32(-8 * index));
  return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32(255)));
}
BILLHOOK_INLINE Bytes transpose(Bytes x) {
  static const uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return vqtbl1q_u8(x, vld1q_u8(kOrder));
}
typedef int16x8_t Pair;
BILLHOOK_INLINE Pair pair(Sums s0, Sums s1) { return vcombine_s16(vqmovn_s32(s0), vqmovn_s32(s1)); }
BILLHOOK_INLINE Bytes join(Pair s01, Pair s23) {
  return vcombine_u8(vqmovun_s16(s01), vqmovun_s16(s23));
}
BILLHOOK_INLINE void store_floats(float* p, Floats v) { vst1q_f32(p, v); }
BILLHOOK_INLINE PixelMask pixels_between(int64_t first, int64_t last) { return {first, last}; }
BILLHOOK_INLINE Bytes load_where(const uint8_t* p, PixelMask mask, Bytes otherwise) {
  if (mask.first <= 0 && mask.last >= 4) return load(p);
  uint8_t v[16];
  store(v, otherwise);
  for (int64_t i = 0; i < 4; ++i)
    if (i >= mask.first && i < mask.last) std::memcpy(v + 4 * i, p + 4 * i, 4);
  return load(v);
}
BILLHOOK_INLINE void store_where(uint8_t* p, PixelMask mask, Bytes v) {
  uint8_t from[16];
  store(from, v);
  for (int64_t i = 0; i < 4; ++i)
    if (i >= mask.first && i < mask.last) std::memcpy(p + 4 * i, from + 4 * i, 4);
}
BILLHOOK_INLINE Bytes evens_then_odds(Bytes v) { return v; }
BILLHOOK_INLINE void store_in_order(uint8_t* p, Bytes v) { store(p, v); }
BILLHOOK_INLINE Bytes even_pixels(const uint8_t* p) {
  const uint32x4x2_t both = vld2q_u32(reinterpret_cast<const uint32_t*>(p));
  return vreinterpretq_u8_u32(both.val[0]);
}

#else

constexpr int kPixels = 4;
struct Bytes {
  uint8_t v[16];
};
struct Sums {
  int32_t v[4];
};
struct Floats {
  float v[4];
};
struct PixelMask {
  int64_t first, last;
};

BILLHOOK_INLINE Bytes load(const void* p) {
  Bytes b;
  std::memcpy(&b, p, sizeof b);
  return b;
}
BILLHOOK_INLINE void store(void* p, Bytes v) { std::memcpy(p, &v, sizeof v); }
BILLHOOK_INLINE Sums splat(int32_t v) { return {{v, v, v, v}}; }
BILLHOOK_INLINE Bytes splat_bytes(int32_t v) {
  const Sums s = splat(v);
  return load(&s);
}
BILLHOOK_INLINE Floats splat_float(float v) { return {{v, v, v, v}}; }
BILLHOOK_INLINE Bytes splat_lane(const void* p) { return load(p); }
BILLHOOK_INLINE Floats as_floats(Bytes v) {
  Floats f;
  std::memcpy(&f, &v, sizeof f);
  return f;
}
BILLHOOK_INLINE Sums sums_of(Bytes v) {
  Sums s;
  std::memcpy(&s, &v, sizeof s);
  return s;
}
BILLHOOK_INLINE void dot(Sums& sums, Bytes x, Bytes weights) {
  for (int p = 0; p < 4; ++p)
    for (int c = 0; c < 4; ++c)
      sums.v[p] += x.v[4 * p + c] * static_cast<int8_t>(weights.v[4 * p + c]);
}
BILLHOOK_INLINE Sums add(Sums a, Sums b) {
  for (int p = 0; p < 4; ++p) a.v[p] += b.v[p];
  return a;
}
BILLHOOK_INLINE Floats to_floats(Sums a) {
  Floats f;
  for (int p = 0; p < 4; ++p) f.v[p] = static_cast<float>(a.v[p]);
  return f;
}
BILLHOOK_INLINE Floats multiply(Floats a, Floats b) {
  for (int p = 0; p < 4; ++p) a.v[p] *= b.v[p];
  return a;
}
BILLHOOK_INLINE Floats add(Floats a, Floats b) {
  for (int p = 0; p < 4; ++p) a.v[p] += b.v[p];
  return a;
}
BILLHOOK_INLINE Floats at_most(Floats a, Floats b) {
  for (int p = 0; p < 4; ++p) a.v[p] = a.v[p] < b.v[p] ? a.v[p] : b.v[p];
  return a;
}
BILLHOOK_INLINE bool any_nan(Floats a) {
  for (int p = 0; p < 4; ++p)
    if (a.v[p] != a.v[p]) return true;
  return false;
}
BILLHOOK_INLINE Floats load_floats(const float* p) {
  Floats f;
  std::memcpy(&f, p, sizeof f);
  return f;
}
BILLHOOK_INLINE Sums rounded(Floats a) {
  Sums s;
  for (int p = 0; p < 4; ++p) s.v[p] = static_cast<int32_t>(lrintf(a.v[p]));
  return s;
}
BILLHOOK_INLINE Sums channel(Bytes x, int index) {
  Sums s;
  for (int p = 0; p < 4; ++p) s.v[p] = x.v[4 * p + index];
  return s;
}
BILLHOOK_INLINE Bytes transpose(Bytes x) {
  Bytes t;
  for (int p = 0; p < 4; ++p)
    for (int c = 0; c < 4; ++c) t.v[4 * c + p] = x.v[4 * p + c];
  return t;
}
struct Pair {
  Sums first, second;
};
BILLHOOK_INLINE Pair pair(Sums s0, Sums s1) { return {s0, s1}; }
BILLHOOK_INLINE Bytes join(Pair s01, Pair s23) {
  const Sums* s[4] = {&s01.first, &s01.second, &s23.first, &s23.second};
  Bytes b;
  for (int i = 0; i < 4; ++i)
    for (int p = 0; p < 4; ++p) {
      const int32_t v = s[i]->v[p];
      b.v[4 * i + p] = static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
    }
  return b;
}
BILLHOOK_INLINE void store_floats(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
BILLHOOK_INLINE PixelMask pixels_between(int64_t first, int64_t last) { return {first, last}; }
BILLHOOK_INLINE Bytes load_where(const uint8_t* p, PixelMask mask, Bytes otherwise) {
  for (int64_t i = 0; i < 4; ++i)
    if (i >= mask.first && i < mask.last) std::memcpy(otherwise.v + 4 * i, p + 4 * i, 4);
  return otherwise;
}
BILLHOOK_INLINE void store_where(uint8_t* p, PixelMask mask, Bytes v) {
  for (int64_t i = 0; i < 4; ++i)
    if (i >= mask.first && i < mask.last) std::memcpy(p + 4 * i, v.v + 4 * i, 4);
}
BILLHOOK_INLINE Bytes evens_then_odds(Bytes v) { return v; }
BILLHOOK_INLINE void store_in_order(uint8_t* p, Bytes v) { store(p, v); }
BILLHOOK_INLINE Bytes even_pixels(const uint8_t* p) {
  Bytes b;
  for (int i = 0; i < 4; ++i) std::memcpy(b.v + 4 * i, p + 8 * i, 4);
  return b;
}

#endif

#if BILLHOOK_LANES >= 2
BILLHOOK_INLINE Bytes splat_bytes(int32_t v) { return splat(v); }
BILLHOOK_INLINE Sums sums_of(Bytes v) { return v; }
#endif

BILLHOOK_INLINE Sums load_sums(const int32_t* p) { return sums_of(load(p)); }

// The four bytes at p, for every pixel.
BILLHOOK_INLINE Bytes splat_four(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  return splat_bytes(four);
}

// Weight i of those that blocks have, four numbers each, for every pixel.
#if defined(BILLHOOK_WORDS)
BILLHOOK_INLINE Weights weights_at(const int8_t* p, int64_t i) {
  return {splat_four(p + 8 * i), splat_four(p + 8 * i + 4)};
}
#else
#if !defined(BILLHOOK_SIGNED)
typedef Bytes Operand;
typedef Bytes Weights;
BILLHOOK_INLINE Operand operand(Bytes x) { return x; }
BILLHOOK_INLINE Weights weights(Bytes w) { return w; }
#endif
BILLHOOK_INLINE Weights weights_at(const int8_t* p, int64_t i) {
  return weights(splat_four(p + 4 * i));
}
#endif

BILLHOOK_INLINE Sums quantised(Sums sums, Floats scale) {
  return rounded(multiply(to_floats(sums), scale));
}

}  // namespace billhook::BILLHOOK_NAMESPACE
