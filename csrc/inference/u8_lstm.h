// An LSTM layer and direction at batch 1 with its recurrent matrix in 8 bits.
//
// The recurrent state has one byte per unit at a fixed step, h = (q - 128) / 127; gates, cell state and
// results are fp32. The pointwise part has multiplications, additions and divisions alone, none
// contracted, so that all instruction sets give the same bits.
#pragma once
#include <cstdint>

namespace billhook {

// c and h after a step of `units` units: gates[k * units + u] + recurrent[k * units + u] for the gates i,
// f, g and o. state[u] = u8(127 * h[u] + 128).
using U8LstmCell = void (*)(const float* gates, const float* recurrent, int64_t units, float* c,
                            float* h, uint8_t* state);

namespace portable {
void u8_lstm_cell(const float* gates, const float* recurrent, int64_t units, float* c, float* h,
                  uint8_t* state);
}
namespace avx2 {
void u8_lstm_cell(const float* gates, const float* recurrent, int64_t units, float* c, float* h,
                  uint8_t* state);
}
namespace avx512 {
void u8_lstm_cell(const float* gates, const float* recurrent, int64_t units, float* c, float* h,
                  uint8_t* state);
}

}  // namespace billhook
