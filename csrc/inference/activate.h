// The activations that kernels apply to their sums.
#pragma once
#include "f32_math.h"
#include "f32_pointwise.h"
#include "f32_spmm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

// One function that is called, not a part or a clone of each kernel: few convolutions have one of these.
[[gnu::noinline, gnu::noclone]] inline void apply_gate(int64_t function, Vec* acc, int count) {
  const auto each = [=](const auto& f) {
    for (int i = 0; i < count; ++i) acc[i] = f(acc[i]);
  };
  switch (function) {
    case kHardSwish: return each([](Vec v) { return v * hard_sigmoid(v); });
    case kHardSigmoid: return each([](Vec v) { return hard_sigmoid(v); });
    case kSigmoid: return each([](Vec v) { return sigmoid(v); });
    default: return each([](Vec v) { return v * sigmoid(v); });  // kSilu
  }
}

template <int N>
BILLHOOK_INLINE void activate(int64_t activation, Vec* acc) {
  if (activation == kNone) return;
  if (activation > kRelu6) {
    Vec values[N];
    for (int i = 0; i < N; ++i) values[i] = acc[i];
    apply_gate(activation, values, N);
    for (int i = 0; i < N; ++i) acc[i] = values[i];
    return;
  }
  for (int i = 0; i < N; ++i) acc[i] = at_least(acc[i], splat(0.0f));
  if (activation == kRelu6)
    for (int i = 0; i < N; ++i) acc[i] = at_most(acc[i], splat(6.0f));
}

}  // namespace billhook::BILLHOOK_NAMESPACE
