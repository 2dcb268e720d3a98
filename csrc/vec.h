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
// Where a is NaN both keep NaN, as torch's activations do.
BILLHOOK_INLINE Vec at_least(Vec a, Vec low) { return a < low ? low : a; }
BILLHOOK_INLINE Vec at_most(Vec a, Vec high) { return a > high ? high : a; }

// The first `count` lanes of a vector; load_first sets the others to zero.
#if defined(__AVX512F__)
BILLHOOK_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
BILLHOOK_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}
BILLHOOK_INLINE void store_first(float* p, Vec v, int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
}
BILLHOOK_INLINE Vec load_first(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
#else
BILLHOOK_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
BILLHOOK_INLINE void store_first(float* p, Vec v, int64_t count) {
  std::memcpy(p, &v, sizeof(float) * static_cast<size_t>(count));
}
BILLHOOK_INLINE Vec load_first(const float* p, int64_t count) {
  Vec v = splat(0.0f);
  std::memcpy(&v, p, sizeof(float) * static_cast<size_t>(count));
  return v;
}
#endif

}  // namespace billhook::BILLHOOK_NAMESPACE
