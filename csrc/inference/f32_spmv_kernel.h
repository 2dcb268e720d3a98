// The group kernels of f32_spmv.h, for the instruction set of the file that includes it.
#include "f32_spmm.h"
#include "f32_spmv.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

constexpr int64_t kRows = 8;                // of a group
constexpr int64_t kSteps = kLanes / kRows;  // that one vector holds

// gather: the elements of x that `count` columns name. shared: the same for steps of one column
// each. fold: each row's sum over the steps that a vector holds, in its first lanes.
#if defined(__AVX512F__)
BILLHOOK_INLINE Vec gather(const float* x, const uint16_t* column, int64_t count) {
  const Mask lanes = lanes_between(0, count);
  const __m512i index = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, column));
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, index, x, sizeof(float));
}
BILLHOOK_INLINE Vec shared(const float* x, const uint16_t* column, int64_t count) {
  if (count == 1) return splat(x[column[0]]);
  return _mm512_mask_blend_ps(0xff00, splat(x[column[0]]), splat(x[column[1]]));
}
BILLHOOK_INLINE Vec fold(Vec v) { return v + (Vec)_mm512_shuffle_f32x4(v, v, 0xee); }
#else
// Eight columns are read as two 64-bit words: fewer loads than one per column, and the loads are what
// limits this kernel. AVX2's hardware gathers were slower on every processor measured.
BILLHOOK_INLINE Vec gather(const float* x, const uint16_t* column, int64_t) {
  uint64_t low, high;
  std::memcpy(&low, column, sizeof low);
  std::memcpy(&high, column + 4, sizeof high);
  return Vec{x[low & 0xffff],  x[low >> 16 & 0xffff],  x[low >> 32 & 0xffff],  x[low >> 48],
             x[high & 0xffff], x[high >> 16 & 0xffff], x[high >> 32 & 0xffff], x[high >> 48]};
}
BILLHOOK_INLINE Vec shared(const float* x, const uint16_t* column, int64_t) {
  return splat(x[column[0]]);
}
BILLHOOK_INLINE Vec fold(Vec v) { return v; }
#endif

// What the values of some steps, kSteps at most, are multiplied by.
template <bool kShared>
BILLHOOK_INLINE Vec operand(const float* x, const uint16_t* column, int64_t step, int64_t steps) {
  return kShared ? shared(x, column + step, steps)
                 : gather(x, column + step * kRows, steps * kRows);
}

// Weights are read once, mostly from the third-level cache, whose latency the hardware's prefetching
// does not hide where it stops at pages. Zen 3 was slower with it, so the AVX2 version has none.
BILLHOOK_INLINE void prefetch(const LaneRows& w, int64_t first, int64_t last) {
#if defined(__AVX512F__)
  constexpr int64_t kAhead = 512, kValues = 16, kColumns = 32;  // elements; a cache line's
  for (int64_t i = first; i < last; i += kValues) __builtin_prefetch(w.value + i + kAhead);
  for (int64_t i = first; i < last; i += kColumns) __builtin_prefetch(w.column + i + kAhead);
#else
  (void)w, (void)first, (void)last;
#endif
}

template <bool kShared>
BILLHOOK_INLINE Vec dot(const LaneRows& w, int64_t group, const float* x) {
  constexpr int kChains = 4;
  Vec chain[kChains] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t step = w.group_ptr[group];
  const int64_t end = w.group_ptr[group + 1];
  for (; step + kChains * kSteps <= end; step += kChains * kSteps) {
    prefetch(w, step * kRows, (step + kChains * kSteps) * kRows);
    for (int64_t c = 0; c < kChains; ++c)
      chain[c] = fma(load(w.value + (step + c * kSteps) * kRows),
                     operand<kShared>(x, w.column, step + c * kSteps, kSteps), chain[c]);
  }
  for (; step + kSteps <= end; step += kSteps)
    chain[0] = fma(load(w.value + step * kRows), operand<kShared>(x, w.column, step, kSteps),
                   chain[0]);
  const Vec sum = fold((chain[0] + chain[1]) + (chain[2] + chain[3]));
  if (step == end) return sum;
  return fma(load_first(w.value + step * kRows, kRows), operand<kShared>(x, w.column, step, 1),
             sum);
}

// Bias, addend and activation of a group's rows, to y.
void finish(const LaneRows& w, const int32_t* rows, const float* sums, const float* addend, float* y) {
  for (int64_t lane = 0; lane < kRows; ++lane) {
    const int32_t row = rows[lane];
    if (row < 0) continue;
    float value = sums[lane];
    if (w.bias != nullptr) value += w.bias[row];
    if (addend != nullptr) value += addend[row];
    if (w.activation != kNone && value < 0.0f) value = 0.0f;
    if (w.activation == kRelu6 && value > 6.0f) value = 6.0f;
    y[row] = value;
  }
}

// The same with less to decide where there is an addend at most, as in recurrent layers. kShared: rows
// whose columns are shared are in order.
template <bool kShared>
BILLHOOK_INLINE void store_rows(const LaneRows& w, int64_t group, Vec acc, const float* addend, float* y) {
  const int32_t* rows = w.row + group * kRows;
  float sums[kLanes];
  store(sums, acc);
  if (w.bias != nullptr || w.activation != kNone || rows[kRows - 1] < 0)
    return finish(w, rows, sums, addend, y);
  if (kShared) {
    for (int64_t lane = 0; lane < kRows; ++lane)
      if (addend != nullptr) sums[lane] += addend[rows[0] + lane];
    std::memcpy(y + rows[0], sums, kRows * sizeof(float));
    return;
  }
#pragma GCC unroll 8
  for (int64_t lane = 0; lane < kRows; ++lane)
    y[rows[lane]] = addend == nullptr ? sums[lane] : sums[lane] + addend[rows[lane]];
}

}  // namespace

void spmv_groups(const LaneRows& w, int64_t first, int64_t last, const float* x,
                 const float* addend, float* y) {
  for (int64_t group = first; group < last; ++group) {
    if (w.shared_columns)
      store_rows<true>(w, group, dot<true>(w, group, x), addend, y);
    else
      store_rows<false>(w, group, dot<false>(w, group, x), addend, y);
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
