// One direction of one LSTM layer over all its time steps.
#pragma once
#include <cstdint>

#include "f32_spmm.h"
#include "f32_spmv.h"

namespace billhook {

// The pointwise part for `count` samples of one unit: gates i, f, g, o before their activations
// become c and h. i = sigmoid(i), f = sigmoid(f), g = tanh(g), o = sigmoid(o), c = f * c + i * g,
// h = o * tanh(c).
using LstmCell = void (*)(const float* i, const float* f, const float* g, const float* o, float* c,
                          float* h, int64_t count);

namespace portable {
void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count);
}
namespace avx2 {
void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count);
}
namespace avx512 {
void lstm_cell(const float* i, const float* f, const float* g, const float* o, float* c, float* h,
               int64_t count);
}

}  // namespace billhook
