// The pointwise part of f32_lstm.h, for the instruction set of the file that includes it.
#include "f32_lstm.h"
#include "f32_math.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

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
