// The pointwise part of f32_lstm.h, for the instruction set of the file that includes it.
#include "f32_lstm.h"
#include "f32_math.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// 1 + e^-x, the inverse of sigmoid(x). Arguments are held, so that three such factors are finite.
constexpr float kBound = 28.0f;
BILLHOOK_INLINE Vec over_sigmoid(Vec x) {
  return splat(1.0f) + raised(power(held_between(-x, -kBound, kBound)));
}

// sigmoid(f) c + sigmoid(i) tanh(g) by one division: with a = 1 + e^-i, d = 1 + e^-f and e = e^2g - 1 it is
// (c a (e + 2) + e d) / (a (e + 2) d).
BILLHOOK_INLINE Vec next_cell(Vec i, Vec f, Vec g, Vec c) {
  const Vec a = over_sigmoid(i), d = over_sigmoid(f);
  const Vec e = exponential_less_one(g + g, kBound);
  const Vec ab = a * (e + splat(2.0f));
  return fma(c, ab, e * d) / (ab * d);
}

// sigmoid(o) tanh(c), likewise.
BILLHOOK_INLINE Vec next_state(Vec o, Vec c) {
  const Vec e = exponential_less_one(c + c, kBound);
  return e / (over_sigmoid(o) * (e + splat(2.0f)));
}

}  // namespace

// Two loops: h waits for c, so the processor works on more cells at a time if all c come first.
void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count) {
  const int64_t whole = count / kLanes * kLanes, rest = count - whole;
  for (int64_t p = 0; p < whole; p += kLanes)
    store(c + p, next_cell(load(i + p), load(f + p), load(g + p), load(c + p)));
  for (int64_t p = 0; p < whole; p += kLanes) store(h + p, next_state(load(o + p), load(c + p)));
  if (rest == 0) return;
  const auto part = [&](const float* x) { return load_first(x + whole, rest); };
  const Vec cell = next_cell(part(i), part(f), part(g), part(c));
  store_first(c + whole, cell, rest);
  store_first(h + whole, next_state(part(o), cell), rest);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
