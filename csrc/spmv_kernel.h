// The group kernels of spmv.h, for the instruction set of the file that includes it.
#include "spmm.h"
#include "spmv.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// Eight columns are read as two 64-bit words: fewer loads than one a column, and the loads are what
// limits this kernel. Hardware gathers are slower on every processor measured.
BILLHOOK_INLINE Vec gather(const float* x, const uint16_t* column) {
  uint64_t low, high;
  std::memcpy(&low, column, sizeof low);
  std::memcpy(&high, column + 4, sizeof high);
  return Vec{x[low & 0xffff],  x[low >> 16 & 0xffff],  x[low >> 32 & 0xffff],  x[low >> 48],
             x[high & 0xffff], x[high >> 16 & 0xffff], x[high >> 32 & 0xffff], x[high >> 48]};
}

template <bool kShared>
BILLHOOK_INLINE Vec operand(const float* x, const uint16_t* column, int64_t step) {
  return kShared ? splat(x[column[step]]) : gather(x, column + step * kLanes);
}

template <bool kShared>
BILLHOOK_INLINE Vec dot(const LaneRows& w, int64_t group, const float* x) {
  constexpr int kChains = 4;
  Vec chain[kChains] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t step = w.group_ptr[group];
  const int64_t end = w.group_ptr[group + 1];
  for (; step + kChains <= end; step += kChains)
    for (int c = 0; c < kChains; ++c)
      chain[c] = fma(load(w.value + (step + c) * kLanes),
                     operand<kShared>(x, w.column, step + c), chain[c]);
  for (; step < end; ++step)
    chain[0] = fma(load(w.value + step * kLanes), operand<kShared>(x, w.column, step), chain[0]);
  return (chain[0] + chain[1]) + (chain[2] + chain[3]);
}

BILLHOOK_INLINE void finish(const LaneRows& w, int64_t group, Vec acc, const float* addend,
                            float* y) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int32_t row = w.row[group * kLanes + lane];
    if (row < 0) continue;
    float value = acc[lane];
    if (w.bias != nullptr) value += w.bias[row];
    if (addend != nullptr) value += addend[row];
    if (w.activation != kNone && value < 0.0f) value = 0.0f;
    if (w.activation == kRelu6 && value > 6.0f) value = 6.0f;
    y[row] = value;
  }
}

}  // namespace

void spmv_groups(const LaneRows& w, int64_t first, int64_t last, const float* x,
                 const float* addend, float* y) {
  for (int64_t group = first; group < last; ++group) {
    const Vec acc = w.shared_columns ? dot<true>(w, group, x) : dot<false>(w, group, x);
    finish(w, group, acc, addend, y);
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
