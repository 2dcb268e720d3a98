// The activations that kernels apply to their sums.
#pragma once
#include "f32_spmm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

template <int N>
BILLHOOK_INLINE void activate(int64_t activation, Vec* acc) {
  if (activation == kNone) return;
  for (int i = 0; i < N; ++i) acc[i] = at_least(acc[i], splat(0.0f));
  if (activation == kRelu6)
    for (int i = 0; i < N; ++i) acc[i] = at_most(acc[i], splat(6.0f));
}

}  // namespace billhook::BILLHOOK_NAMESPACE
