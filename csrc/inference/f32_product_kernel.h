// The kernels of product.h, for the instruction set of the file that includes it.
#include "f32_math.h"
#include "f32_panel.h"
#include "f32_product.h"
#include "f32_reduce.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// Rows and vectors of sums that the registers hold at once.
constexpr int64_t kRows = kLanes == 16 ? 8 : 4;
constexpr int64_t kVectors = kLanes == 16 ? 3 : 2;

template <int64_t R, int64_t V>
BILLHOOK_INLINE void block(const Product& p, int64_t m, int64_t j) {
  const int64_t rest = p.columns - j - kLanes * (V - 1);
  const Mask lanes = lanes_between(0, rest);
  Vec acc[R][V];
  for (int64_t r = 0; r < R; ++r)
    for (int64_t v = 0; v < V; ++v) acc[r][v] = splat(0.0f);
  const float* a = p.a + m * p.am;
  const float* b = p.b + j;
  for (int64_t k = 0; k < p.terms; ++k, a += p.ak, b += p.bk) {
    Vec x[V];
    for (int64_t v = 0; v + 1 < V; ++v) x[v] = load(b + kLanes * v);
    x[V - 1] = rest >= kLanes ? load(b + kLanes * (V - 1)) : load_where(b + kLanes * (V - 1), lanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < R; ++r)
      for (int64_t v = 0; v < V; ++v) acc[r][v] = fma(splat(a[r * p.am]), x[v], acc[r][v]);
  }
  for (int64_t r = 0; r < R; ++r) {
    float* y = p.y + (m + r) * p.ym + j;
    for (int64_t v = 0; v + 1 < V; ++v) store(y + kLanes * v, acc[r][v]);
    store_up_to(y + kLanes * (V - 1), acc[r][V - 1], rest);
  }
}

template <int64_t V>
void strip(const Product& p, int64_t j) {
  int64_t m = 0;
  for (; m + kRows <= p.rows; m += kRows) block<kRows, V>(p, m, j);
  for (; m + 2 <= p.rows; m += 2) block<2, V>(p, m, j);
  for (; m < p.rows; ++m) block<1, V>(p, m, j);
}

}  // namespace

void product(const Product& p) {
  for (int64_t j = 0; j < p.columns; j += kLanes * kVectors) {
    const int64_t vectors = (p.columns - j + kLanes - 1) / kLanes;
    if (vectors == 1)
      strip<1>(p, j);
    else if (vectors == 2)
      strip<2>(p, j);
    else
      strip<kVectors>(p, j);
  }
}

int64_t attention_block() { return kLanes * kVectors; }

void attend(const Step& step, const Head& h) {
  const int64_t block = kLanes * kVectors;
  const int64_t last = h.first + h.count;
  const bool causal = step.function == 1;
  const int64_t keys = causal && last < step.in_width ? last : step.in_width;
  float* scores = scratch(1, keys * block);
  product({h.key, 1, step.addend.plane, keys, h.query + h.first, step.x.plane, step.size[2], scores,
           block, h.count});
  const Vec scale = splat(static_cast<float>(step.parameters[0]));
  for (int64_t k = 0; k < keys; ++k)
    for (int64_t j = 0; j < h.count; j += kLanes) {
      const int64_t count = h.count - j < kLanes ? h.count - j : kLanes;
      Vec v = load_first(scores + k * block + j, count) * scale;
      if (h.mask != nullptr) {
        const float* mask = h.mask + k * step.from[1] + (h.first + j) * step.from[2];
        v += step.from[2] == 1 ? load_first(mask, count) : splat(*mask);
      }
      if (causal)
        for (int64_t lane = 0; lane < count; ++lane)
          if (k > h.first + j + lane) v[lane] = -std::numeric_limits<float>::infinity();
      store_up_to(scores + k * block + j, v, count);
    }
  for (int64_t j = 0; j < h.count; j += kLanes) {
    const Reduced r{scores + j, nullptr, nullptr, scores + j};
    softmax_columns(r, block, block, keys, h.count - j < kLanes ? h.count - j : kLanes, false);
  }
  product({h.value, step.extra.plane, 1, step.size[3], scores, block, keys, h.y + h.first,
           step.y.plane, h.count});
}

}  // namespace billhook::BILLHOOK_NAMESPACE
