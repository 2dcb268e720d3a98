// Products of two computed matrices, and attention.
#pragma once
#include "steps.h"

namespace billhook {

// kMatmul: y[g, m, j] = sum_k x[g, m, k] * addend[g, k, j] for size = {G, M, K, N}. Element (g, m, k) of
// x is at g * from[0] + m * from[1] + k * from[2], element (g, k, j) of addend at g * to[0] + k * to[1] + j,
// element (g, m, j) of y at g * to[2] + m * to[3] + j.
void run_matmul(const Step& step, const Operands& at);

// kAttention: of `channels` planes each, x has the queries of size[0] heads, size[2] features each,
// `width` of them; addend has the keys and extra the values, of size[1] heads (a divisor of size[0]),
// size[2] and size[3] features, `in_width` of each. y[h, :, i] = sum_j p[i, j] * value[:, j] with p the
// softmax over j of parameters[0] * query . key + mask; `function` 1: j <= i alone.
// The mask of (h, j, i) is at mask + h * from[0] + j * from[1] + i * from[2], `mask` a view of its own.
void run_attention(const Step& step, const Operands& at, const float* mask);

// y[m * ym + j] = sum_k a[m * am + k * ak] * b[k * bk + j] for m < rows, j < columns.
struct Product {
  const float* a;
  int64_t am, ak, rows;
  const float* b;
  int64_t bk, terms;
  float* y;
  int64_t ym, columns;
};

// One head's queries [first, first + count), count at most attention_block().
struct Head {
  const float *query, *key, *value, *mask;
  float* y;
  int64_t first, count;
};

#define BILLHOOK_PRODUCT              \
  void product(const Product&);       \
  int64_t attention_block();          \
  void attend(const Step&, const Head&);

namespace portable {
BILLHOOK_PRODUCT
}
namespace avx2 {
BILLHOOK_PRODUCT
}
namespace avx512 {
BILLHOOK_PRODUCT
}

}  // namespace billhook
