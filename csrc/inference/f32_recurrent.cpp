#include "f32_recurrent.h"

#include <algorithm>

#include "f32_lstm.h"
#include "f32_panel.h"
#include "f32_planes.h"
#include "isa.h"

namespace billhook {

void run_recurrent(const Step& step, const Operands& at) {
  const LaneRows& matrix = step.lanes;
  const int64_t units = matrix.columns, gates = matrix.rows, steps = step.width;
  const int64_t made = step.size[1] == 1 ? 2 * units : units;
  const auto lstm = BILLHOOK_FP32(LstmCell, lstm_cell, at.isa);
  const auto gru = BILLHOOK_FP32(GruCell, gru_cell, at.isa);
  float* inputs = scratch(4, steps * gates);
  float* outputs = scratch(5, steps * made);
  float* sums = scratch(6, gates);
  float* h = scratch(7, 2 * units);
  float* c = h + units;
  transpose(at.x, step.x.plane, gates, steps, inputs, gates);
  std::fill(h, h + 2 * units, 0.0f);
  if (at.addend != nullptr) std::copy(at.addend, at.addend + units, h);
  if (at.extra != nullptr) std::copy(at.extra, at.extra + units, c);
  for (int64_t k = 0; k < steps; ++k) {
    const int64_t t = step.size[0] == 1 ? steps - 1 - k : k;
    const float* x = inputs + t * gates;
    if (step.op == kLstm) {
      spmv(matrix, h, x, sums, at.threads, at.isa);
      lstm(sums, sums + units, sums + 2 * units, sums + 3 * units, c, h, units);
    } else {
      spmv(matrix, h, nullptr, sums, at.threads, at.isa);
      gru(x, sums, h, units);
    }
    std::copy(h, h + made, outputs + t * made);
  }
  transpose(outputs, made, steps, made, at.y, step.y.plane);
  clear_row_ends(step, at.y, made);
}

}  // namespace billhook
