// The pointwise part of lstm.h, for the instruction set of the file that includes it.
#include "lstm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// exp(x) = 2^n * e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; e^r by its series to r^7
// (relative error 5e-9). Arguments are held in [-87, 88], where the result is a normal number.
BILLHOOK_INLINE Vec exponential(Vec x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // few enough bits that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440054690583e-4f;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr int32_t kShiftBits = 0x4b400000;
  x = at_most(at_least(x, splat(-87.0f)), splat(88.0f));
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
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const VecInt exponent = (VecInt)shifted - kShiftBits + 127;
  return p * (Vec)(exponent << 23);
}

BILLHOOK_INLINE Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exponential(-x)); }

// (1 - e^-2|x|) / (1 + e^-2|x|), and the odd series near zero, where that cancels.
BILLHOOK_INLINE Vec hyperbolic_tangent(Vec x) {
  const Vec size = x < splat(0.0f) ? -x : x;
  const Vec e = exponential(splat(-2.0f) * size);
  Vec far = (splat(1.0f) - e) / (splat(1.0f) + e);
  far = x < splat(0.0f) ? -far : far;
  const Vec square = x * x;
  Vec p = splat(-1382.0f / 155925.0f);
  p = fma(p, square, splat(62.0f / 2835.0f));
  p = fma(p, square, splat(-17.0f / 315.0f));
  p = fma(p, square, splat(2.0f / 15.0f));
  p = fma(p, square, splat(-1.0f / 3.0f));
  const Vec near = fma(p * square, x, x);
  return size < splat(0.3f) ? near : far;
}

}  // namespace

void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count) {
  for (int64_t p = 0; p < count; p += kLanes) {
    const int64_t some = count - p < kLanes ? count - p : kLanes;
    const Vec input = sigmoid(load_first(i + p, some));
    const Vec forget = sigmoid(load_first(f + p, some));
    const Vec candidate = hyperbolic_tangent(load_first(g + p, some));
    const Vec output = sigmoid(load_first(o + p, some));
    const Vec cell = fma(forget, load_first(c + p, some), input * candidate);
    store_first(c + p, cell, some);
    store_first(h + p, output * hyperbolic_tangent(cell), some);
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
