// LSTM and GRU layers as steps of a program.
#pragma once
#include "steps.h"

namespace billhook {

// kLstm, kGru: one direction of a layer over `width` time steps. x has the gates of the inputs, biases
// included, one plane each (i, f, g, o of all units, or r, z, n); `lanes` is the recurrent matrix, in a
// GRU with its bias. addend and extra are the first h and c, zero where null. y has one plane for each
// unit's h, and if size[1] is 1 for each unit's c after them. size[0] 1: last time step first.
void run_recurrent(const Step& step, const Operands& at);

// The pointwise part of a GRU: r = sigmoid(x[0] + u[0]), z = sigmoid(x[1] + u[1]), n = tanh(x[2] + r u[2]),
// h = (1 - z) n + z h; x and u have three gates of `units` numbers.
using GruCell = void (*)(const float* x, const float* u, float* h, int64_t units);

namespace portable {
void gru_cell(const float* x, const float* u, float* h, int64_t units);
}
namespace avx2 {
void gru_cell(const float* x, const float* u, float* h, int64_t units);
}
namespace avx512 {
void gru_cell(const float* x, const float* u, float* h, int64_t units);
}

}  // namespace billhook
