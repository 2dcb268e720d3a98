// Exponential and what is made of it, for vectors: relative errors below 1e-6, as tests/inference/
// test_pointwise.py measures; NaN stays NaN.
#pragma once
#include <limits>

#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

// e^x = scale * (1 + r + second * r^2) for |x| <= 89: scale = 2^n with n = round(x / ln 2), |r| <= ln(2) / 2,
// and the series up to r^7 (relative error 5e-9).
struct Power {
  Vec scale, r, second;
};

BILLHOOK_INLINE Power power(Vec x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // few enough bits that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440054690583e-4f;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr int32_t kShiftBits = 0x4b400000;
  const Vec shifted = fma(x, splat(kLog2E), splat(kShift));
  const Vec n = shifted - splat(kShift);
  Vec r = fma(n, splat(-kLn2High), x);
  r = fma(n, splat(-kLn2Low), r);
  Vec p = splat(1.0f / 5040.0f);
  p = fma(p, r, splat(1.0f / 720.0f));
  p = fma(p, r, splat(1.0f / 120.0f));
  p = fma(p, r, splat(1.0f / 24.0f));
  p = fma(p, r, splat(1.0f / 6.0f));
  p = fma(p, r, splat(0.5f));
  const VecInt exponent = (VecInt)shifted - kShiftBits + 127;
  return {(Vec)(exponent << 23), r, p};
}

BILLHOOK_INLINE Vec held_between(Vec x, float low, float high) {
  return at_most(at_least(x, splat(low)), splat(high));
}

BILLHOOK_INLINE Vec raised(Power p) {
  return fma(fma(p.second, p.r, splat(1.0f)), p.r, splat(1.0f)) * p.scale;
}

// e^x; arguments are held in [-87, 89], and above 88.3 the result is infinite.
BILLHOOK_INLINE Vec exponential(Vec x) { return raised(power(held_between(x, -87.0f, 89.0f))); }

// e^x - 1 without cancellation; arguments are held in [-bound, bound], bound <= 87.
BILLHOOK_INLINE Vec exponential_less_one(Vec x, float bound) {
  const Power p = power(held_between(x, -bound, bound));
  return fma(fma(p.second * p.r, p.r, p.r), p.scale, p.scale - splat(1.0f));
}

// The same where results may be zero (below e^-87) or infinite (above e^88).
BILLHOOK_INLINE Vec exponential_to_zero(Vec x) {
  const Vec y = exponential(x);
  const Vec low = x < splat(-87.0f) ? splat(0.0f) : y;
  return x > splat(88.0f) ? splat(std::numeric_limits<float>::infinity()) : low;
}

BILLHOOK_INLINE Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exponential(-x)); }

BILLHOOK_INLINE Vec hard_sigmoid(Vec x) {
  return at_most(at_least(x + splat(3.0f), splat(0.0f)), splat(6.0f)) * splat(1.0f / 6.0f);
}

// e / (e + 2) with e = e^2x - 1.
BILLHOOK_INLINE Vec hyperbolic_tangent(Vec x) {
  const Vec e = exponential_less_one(x + x, 28.0f);
  return e / (e + splat(2.0f));
}

// 1 - erf(x) for x >= 0: t e^(-x^2 + p(t)) with t = 1 / (1 + x / 2), by the Chebyshev fit of
// Numerical Recipes (fractional error 1.2e-7).
BILLHOOK_INLINE Vec complementary_error(Vec x) {
  const Vec t = splat(1.0f) / fma(splat(0.5f), x, splat(1.0f));
  Vec p = splat(0.17087277f);
  p = fma(p, t, splat(-0.82215223f));
  p = fma(p, t, splat(1.48851587f));
  p = fma(p, t, splat(-1.13520398f));
  p = fma(p, t, splat(0.27886807f));
  p = fma(p, t, splat(-0.18628806f));
  p = fma(p, t, splat(0.09678418f));
  p = fma(p, t, splat(0.37409196f));
  p = fma(p, t, splat(1.00002368f));
  p = fma(p, t, splat(-1.26551223f));
  // e^(p - x^2) as a product, so that the rounding of x^2 alone is magnified.
  return t * exponential_to_zero(p) * exponential_to_zero(-x * x);
}

// x times the normal distribution's share below x.
BILLHOOK_INLINE Vec gelu(Vec x) {
  constexpr float kHalfRoot = 0.70710678118654752f;
  const Vec size = x < splat(0.0f) ? -x : x;
  const Vec tail = splat(0.5f) * complementary_error(splat(kHalfRoot) * size);
  return x < splat(0.0f) ? x * tail : fma(-x, tail, x);
}

BILLHOOK_INLINE Vec gelu_tanh(Vec x) {
  constexpr float kScale = 0.79788456080286536f, kCubic = 0.044715f;
  const Vec inner = splat(kScale) * fma(splat(kCubic) * x * x, x, x);
  return x * sigmoid(inner + inner);  // 1 + tanh(u) = 2 sigmoid(2u), without the cancellation
}

// x tanh(log(1 + e^x)): with e = e^x, (e^2 + 2e) / (e^2 + 2e + 2) times x.
BILLHOOK_INLINE Vec mish(Vec x) {
  const Vec e = exponential(at_most(x, splat(20.0f)));
  const Vec n = e * (e + splat(2.0f));
  return x * (n / (n + splat(2.0f)));
}

BILLHOOK_INLINE Vec square_root(Vec x) {
  Vec y;
  for (int64_t lane = 0; lane < kLanes; ++lane) y[lane] = __builtin_sqrtf(x[lane]);
  return y;
}

// log(x) = e ln 2 + log(m) with m in [sqrt(1/2), sqrt(2)); log(m) by its series in (m - 1) / (m + 1)
// to the ninth power (relative error 1e-8). Zero and denormals give -infinity, negatives NaN.
BILLHOOK_INLINE Vec logarithm(Vec x) {
  const VecInt bits = (VecInt)x;
  const VecInt shifted = bits - 0x3f3504f3;  // sqrt(1/2)
  const VecInt exponent = shifted >> 23;
  const Vec m = (Vec)(bits - (exponent << 23));
  const Vec s = (m - splat(1.0f)) / (m + splat(1.0f));
  const Vec q = s * s;
  Vec p = splat(2.0f / 9.0f);
  p = fma(p, q, splat(2.0f / 7.0f));
  p = fma(p, q, splat(2.0f / 5.0f));
  p = fma(p, q, splat(2.0f / 3.0f));
  const Vec series = fma(p * q, s, splat(2.0f) * s);
  const Vec e = __builtin_convertvector(exponent, Vec);
  Vec y = fma(e, splat(0.693359375f), fma(e, splat(-2.12194440054690583e-4f), series));
  const Vec infinity = splat(std::numeric_limits<float>::infinity());
  y = x < splat(1.17549435e-38f) ? -infinity : y;
  y = x == infinity ? infinity : y;
  y = x < splat(0.0f) ? splat(std::numeric_limits<float>::quiet_NaN()) : y;
  return x != x ? x : y;
}

}  // namespace billhook::BILLHOOK_NAMESPACE
