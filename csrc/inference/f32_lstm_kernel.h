// The pointwise part of f32_lstm.h, for the instruction set of the file that includes it.
#include "f32_lstm.h"
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

struct Gates {
  Vec i, f, g, o;
};

struct State {
  Vec c, h;
};

BILLHOOK_INLINE State step(Gates gates, Vec c) {
  const Vec cell = fma(sigmoid(gates.f), c, sigmoid(gates.i) * hyperbolic_tangent(gates.g));
  return {cell, sigmoid(gates.o) * hyperbolic_tangent(cell)};
}

}  // namespace

void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count) {
  int64_t p = 0;
  for (; p + kLanes <= count; p += kLanes) {
    const State next = step({load(i + p), load(f + p), load(g + p), load(o + p)}, load(c + p));
    store(c + p, next.c);
    store(h + p, next.h);
  }
  const int64_t rest = count - p;
  if (rest == 0) return;
  const Gates gates{load_first(i + p, rest), load_first(f + p, rest), load_first(g + p, rest),
                    load_first(o + p, rest)};
  const State next = step(gates, load_first(c + p, rest));
  store_first(c + p, next.c, rest);
  store_first(h + p, next.h, rest);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
