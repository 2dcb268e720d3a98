// Vectors of floats in the compiler's own vector types: one source for every instruction set.
//
// A kernel file defines BILLHOOK_NAMESPACE before it includes this, and is compiled once for each
// instruction set, so that no inline function is shared between two sets of compile flags.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace billhook::BILLHOOK_NAMESPACE {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef float VecUnaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#define BILLHOOK_INLINE static inline __attribute__((always_inline))

BILLHOOK_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
BILLHOOK_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }
BILLHOOK_INLINE Vec splat(float value) { return value - Vec{}; }  // keeps the sign of -0.0
// Where a is NaN both keep NaN, as torch's activations do: the instructions give the second operand.
#if defined(__AVX512F__)
BILLHOOK_INLINE Vec at_least(Vec a, Vec low) { return _mm512_max_ps(low, a); }
BILLHOOK_INLINE Vec at_most(Vec a, Vec high) { return _mm512_min_ps(high, a); }
#elif defined(__AVX2__) && defined(__FMA__)
BILLHOOK_INLINE Vec at_least(Vec a, Vec low) { return _mm256_max_ps(low, a); }
BILLHOOK_INLINE Vec at_most(Vec a, Vec high) { return _mm256_min_ps(high, a); }
#else
BILLHOOK_INLINE Vec at_least(Vec a, Vec low) { return a < low ? low : a; }
BILLHOOK_INLINE Vec at_most(Vec a, Vec high) { return a > high ? high : a; }
#endif

// Mask: some lanes of a vector; lanes_between: those from `first` up to, not including, `last`.
// load_where: zero in the other lanes, whose memory is not touched. load_four: four floats, wherever
// splat_of, of which one fills a vector, finds them. even_lanes: of a, then of b.
#if defined(__AVX512F__)
typedef __mmask16 Mask;
BILLHOOK_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
BILLHOOK_INLINE Mask lanes_between(int64_t first, int64_t last) {
  const uint32_t below = first <= 0 ? 0 : first >= kLanes ? 0xffff : (1u << first) - 1;
  const uint32_t up_to = last <= 0 ? 0 : last >= kLanes ? 0xffff : (1u << last) - 1;
  return static_cast<Mask>(up_to & ~below);
}
BILLHOOK_INLINE Vec load_where(const float* p, Mask lanes) {
  return _mm512_maskz_loadu_ps(lanes, p);
}
BILLHOOK_INLINE void store_where(float* p, Vec v, Mask lanes) {
  _mm512_mask_storeu_ps(p, lanes, v);
}
BILLHOOK_INLINE Vec load_four(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
template <int K>
BILLHOOK_INLINE Vec splat_of(Vec four) {
  return _mm512_permute_ps(four, 0x55 * K);
}
BILLHOOK_INLINE Vec even_lanes(Vec a, Vec b) {
  const VecInt even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  return _mm512_permutex2var_ps(a, (__m512i)even, b);
}
#else
typedef VecInt Mask;
BILLHOOK_INLINE Mask lanes_between(int64_t first, int64_t last) {
  Mask lanes;
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = -(lane >= first && lane < last);
  return lanes;
}
#if defined(__AVX2__) && defined(__FMA__)
BILLHOOK_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
BILLHOOK_INLINE Vec load_where(const float* p, Mask lanes) {
  return _mm256_maskload_ps(p, (__m256i)lanes);
}
BILLHOOK_INLINE void store_where(float* p, Vec v, Mask lanes) {
  _mm256_maskstore_ps(p, (__m256i)lanes, v);
}
BILLHOOK_INLINE Vec load_four(const float* p) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
}
template <int K>
BILLHOOK_INLINE Vec splat_of(Vec four) {
  return _mm256_permute_ps(four, 0x55 * K);
}
BILLHOOK_INLINE Vec even_lanes(Vec a, Vec b) {
  const __m256d pairs = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
  return _mm256_castpd_ps(_mm256_permute4x64_pd(pairs, 0xd8));
}
#else
BILLHOOK_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
BILLHOOK_INLINE Vec load_where(const float* p, Mask lanes) {
  Vec v;
  for (int64_t lane = 0; lane < kLanes; ++lane) v[lane] = lanes[lane] ? p[lane] : 0.0f;
  return v;
}
BILLHOOK_INLINE void store_where(float* p, Vec v, Mask lanes) {
  for (int64_t lane = 0; lane < kLanes; ++lane)
    if (lanes[lane]) p[lane] = v[lane];
}
BILLHOOK_INLINE Vec load_four(const float* p) {
  return Vec{p[0], p[1], p[2], p[3], 0.0f, 0.0f, 0.0f, 0.0f};
}
template <int K>
BILLHOOK_INLINE Vec splat_of(Vec four) {
  return splat(four[K]);
}
BILLHOOK_INLINE Vec even_lanes(Vec a, Vec b) {
  return Vec{a[0], a[2], a[4], a[6], b[0], b[2], b[4], b[6]};
}
#endif
#endif

// The first `count` lanes; load_first sets the others to zero.
#if defined(__AVX512F__)
BILLHOOK_INLINE void store_first(float* p, Vec v, int64_t count) {
  store_where(p, v, lanes_between(0, count));
}
BILLHOOK_INLINE Vec load_first(const float* p, int64_t count) {
  return load_where(p, lanes_between(0, count));
}
#else
BILLHOOK_INLINE void store_first(float* p, Vec v, int64_t count) {
  std::memcpy(p, &v, sizeof(float) * static_cast<size_t>(count));
}
BILLHOOK_INLINE Vec load_first(const float* p, int64_t count) {
  Vec v = splat(0.0f);
  std::memcpy(&v, p, sizeof(float) * static_cast<size_t>(count));
  return v;
}
#endif

// The first `count` lanes, or all if it is no less.
BILLHOOK_INLINE void store_up_to(float* p, Vec v, int64_t count) {
  if (count >= kLanes)
    store(p, v);
  else
    store_first(p, v, count);
}

BILLHOOK_INLINE Vec load_up_to(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, count);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
