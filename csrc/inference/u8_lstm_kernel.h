// The pointwise part of u8_lstm.h, for the instruction set of the file that includes it.
#include "u8_lstm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// exp(x) for |x| <= 28, beyond which arguments are held: three such factors still are finite. 2^n * e^r
// with n = round(x / ln 2); e^r by its series to r^6 (relative error 1.2e-7).
BILLHOOK_INLINE Vec bounded_exp(Vec x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr int32_t kShiftBits = 0x4b400000;
  x = at_most(at_least(x, splat(-28.0f)), splat(28.0f));
  const Vec shifted = x * splat(1.44269504088896341f) + splat(kShift);
  const Vec n = shifted - splat(kShift);
  const Vec r = (x - n * splat(0.693359375f)) + n * splat(2.12194440054690583e-4f);
  Vec p = splat(1.0f / 720.0f);
  p = p * r + splat(1.0f / 120.0f);
  p = p * r + splat(1.0f / 24.0f);
  p = p * r + splat(1.0f / 6.0f);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const VecInt exponent = (VecInt)shifted - kShiftBits + 127;
  return p * (Vec)(exponent << 23);
}

struct State {
  Vec c, h;
};

// With a = e^-i, b = e^-2g, d = e^-f: sigmoid(f) c + sigmoid(i) tanh(g) =
// (c (1 + a) (1 + b) + (1 - b) (1 + d)) / ((1 + a) (1 + b) (1 + d)), one division for both.
BILLHOOK_INLINE State step(Vec i, Vec f, Vec g, Vec o, Vec c) {
  const Vec one = splat(1.0f), two = splat(2.0f);
  const Vec a = one + bounded_exp(-i), d = one + bounded_exp(-f);
  const Vec e = bounded_exp(-(two * g)), b = one + e;
  const Vec ab = a * b;
  const Vec cell = (c * ab + (one - e) * d) / (ab * d);
  const Vec t = bounded_exp(-(two * cell));
  const Vec h = (one - t) / ((one + bounded_exp(-o)) * (one + t));
  return {cell, h};
}

BILLHOOK_INLINE void store_bytes(uint8_t* p, Vec h, int64_t count) {
  typedef uint8_t VecBytes __attribute__((vector_size(kLanes)));
  constexpr float kShift = 12582912.0f;
  const Vec rounded = h * splat(127.0f) + splat(128.0f) + splat(kShift);
  const VecInt value = (VecInt)rounded - 0x4b400000;
  const VecBytes bytes = __builtin_convertvector(value, VecBytes);
  std::memcpy(p, &bytes, static_cast<size_t>(count));
}

}  // namespace

void u8_lstm_cell(const float* gates, const float* recurrent, int64_t units, float* c, float* h,
                  uint8_t* state) {
  int64_t u = 0;
  const auto gate = [&](int64_t k) {
    return load(gates + k * units + u) + load(recurrent + k * units + u);
  };
  for (; u + kLanes <= units; u += kLanes) {
    const State next = step(gate(0), gate(1), gate(2), gate(3), load(c + u));
    store(c + u, next.c);
    store(h + u, next.h);
    store_bytes(state + u, next.h, kLanes);
  }
  const int64_t rest = units - u;
  if (rest == 0) return;
  const auto part = [&](int64_t k) {
    return load_first(gates + k * units + u, rest) + load_first(recurrent + k * units + u, rest);
  };
  const State next = step(part(0), part(1), part(2), part(3), load_first(c + u, rest));
  store_first(c + u, next.c, rest);
  store_first(h + u, next.h, rest);
  store_bytes(state + u, next.h, rest);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
