// The row kernels of pointwise.h, for the instruction set of the file that includes it.
#include "f32_math.h"
#include "f32_pointwise.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

template <typename F>
BILLHOOK_INLINE void each(const float* x, float* y, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(x + i)));
  if (i < n) store_first(y + i, f(load_first(x + i, n - i)), n - i);
}

template <typename F>
BILLHOOK_INLINE void both(const Step& step, const float* x, const float* other, float* y, int64_t n,
                          const F& f) {
  const Vec low = splat(step.activation == kNone ? -std::numeric_limits<float>::infinity() : 0.0f);
  const Vec high = splat(step.activation == kRelu6 ? 6.0f : std::numeric_limits<float>::infinity());
  const auto act = [&](Vec v) { return at_most(at_least(v, low), high); };
  if (step.from[0] == 0) {
    const Vec one = splat(other[0]);
    return each(x, y, n, [&](Vec v) { return act(f(v, one)); });
  }
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, act(f(load(x + i), load(other + i))));
  if (i < n)
    store_first(y + i, act(f(load_first(x + i, n - i), load_first(other + i, n - i))), n - i);
}

BILLHOOK_INLINE Vec zero() { return splat(0.0f); }
BILLHOOK_INLINE Vec one() { return splat(1.0f); }
BILLHOOK_INLINE Vec clamped(Vec x, float low, float high) {
  return at_most(at_least(x, splat(low)), splat(high));
}
// e^x - 1: the series near zero, where the difference cancels.
BILLHOOK_INLINE Vec exponential_minus_one(Vec x) {
  Vec p = splat(1.0f / 720.0f);
  p = fma(p, x, splat(1.0f / 120.0f));
  p = fma(p, x, splat(1.0f / 24.0f));
  p = fma(p, x, splat(1.0f / 6.0f));
  p = fma(p, x, splat(0.5f));
  const Vec near = fma(p * x, x, x);
  const Vec size = x < zero() ? -x : x;
  return size < splat(0.25f) ? near : exponential_to_zero(x) - one();
}

}  // namespace

void pointwise_row(const Step& step, const float* x, float* y, int64_t n) {
  const auto a = static_cast<float>(step.parameters[0]), b = static_cast<float>(step.parameters[1]);
  switch (step.function) {
    case kAffine: return each(x, y, n, [=](Vec v) { return fma(splat(a), v, splat(b)); });
    case kClamp: return each(x, y, n, [=](Vec v) { return clamped(v, a, b); });
    case kLeaky: return each(x, y, n, [=](Vec v) { return v > zero() ? v : splat(a) * v; });
    case kHardSwish: return each(x, y, n, [](Vec v) { return v * hard_sigmoid(v); });
    case kHardSigmoid: return each(x, y, n, [](Vec v) { return hard_sigmoid(v); });
    case kSigmoid: return each(x, y, n, [](Vec v) { return sigmoid(v); });
    case kSilu: return each(x, y, n, [](Vec v) { return v * sigmoid(v); });
    case kTanh: return each(x, y, n, [](Vec v) { return hyperbolic_tangent(v); });
    case kGelu: return each(x, y, n, [](Vec v) { return gelu(v); });
    case kGeluTanh: return each(x, y, n, [](Vec v) { return gelu_tanh(v); });
    case kExp: return each(x, y, n, [](Vec v) { return exponential_to_zero(v); });
    case kElu:
      return each(x, y, n,
                  [=](Vec v) { return v > zero() ? v : splat(a) * exponential_minus_one(v); });
    case kAbs: return each(x, y, n, [](Vec v) { return v < zero() ? -v : v; });
    case kSqrt: return each(x, y, n, [](Vec v) { return square_root(v); });
    case kReciprocal: return each(x, y, n, [](Vec v) { return one() / v; });
    case kMish: return each(x, y, n, [](Vec v) { return mish(v); });
    case kLog: return each(x, y, n, [](Vec v) { return logarithm(v); });
    case kEqual: return each(x, y, n, [=](Vec v) { return v == splat(a) ? one() : zero(); });
    default:  // kChoose
      return each(x, y, n, [=](Vec v) { return v != zero() ? splat(a) : splat(b); });
  }
}

void binary_row(const Step& step, const float* x, const float* other, float* y, int64_t n) {
  const auto a = static_cast<float>(step.parameters[0]);
  const auto run = [&](const auto& f) { both(step, x, other, y, n, f); };
  switch (step.function) {
    case kSum: return run([](Vec v, Vec w) { return v + w; });
    case kDifference: return run([](Vec v, Vec w) { return v - w; });
    case kProduct: return run([](Vec v, Vec w) { return v * w; });
    case kQuotient: return run([](Vec v, Vec w) { return v / w; });
    case kLargest: return run([](Vec v, Vec w) { return (w > v) | (w != w) ? w : v; });
    case kSmallest: return run([](Vec v, Vec w) { return (w < v) | (w != w) ? w : v; });
    case kPrelu: return run([](Vec v, Vec w) { return v > zero() ? v : w * v; });
    case kFill2: return run([=](Vec v, Vec w) { return w != zero() ? splat(a) : v; });
    case kLess: return run([](Vec v, Vec w) { return v < w ? one() : zero(); });
    case kLessEqual: return run([](Vec v, Vec w) { return v <= w ? one() : zero(); });
    case kSame: return run([](Vec v, Vec w) { return v == w ? one() : zero(); });
    case kDifferenceOf: return run([](Vec v, Vec w) { return w - v; });
    default: return run([](Vec v, Vec w) { return w / v; });  // kQuotientOf
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
