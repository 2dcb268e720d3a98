#include "lstm.h"

#include <algorithm>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "panel.h"
#include "parallel.h"

namespace billhook {

namespace {

LstmCell lstm_cell_for([[maybe_unused]] int64_t isa) {
#if defined(BILLHOOK_HAS_AVX2)
  if (isa == kAvx2) return avx2::lstm_cell;
#endif
  return portable::lstm_cell;
}

}  // namespace

}  // namespace billhook

// Batch 1. inputs[t] and outputs[t] are rows of 4 * units (biases included) and of output_stride
// floats; h and c hold the first state and are left with the last one. reverse: last step first.
BILLHOOK_API void billhook_lstm_vector(const billhook::LaneRows* recurrent, const float* inputs,
                                       float* h, float* c, float* outputs, int64_t output_stride,
                                       int64_t time_steps, int64_t reverse, int64_t threads,
                                       int64_t isa) {
  using namespace billhook;
  const int64_t units = recurrent->columns;
  const LstmCell cell = lstm_cell_for(isa);
  float* gates = scratch(1, 4 * units);
  for (int64_t k = 0; k < time_steps; ++k) {
    const int64_t t = reverse ? time_steps - 1 - k : k;
    spmv(*recurrent, h, inputs + t * 4 * units, gates, threads, isa);
    cell(gates, gates + units, gates + 2 * units, gates + 3 * units, c, h, units);
    std::memcpy(outputs + t * output_stride, h, static_cast<size_t>(units) * sizeof(float));
  }
}

// Up to `width` samples. Step t has counts[t] samples in the columns from first[t] of inputs
// (4 * units rows) and outputs (units rows), both `columns` apart. h and c are units x width; a
// sample's state changes in the steps it takes part in and stays otherwise, so that either
// direction handles sequences of unequal length sorted by falling length.
// The recurrent matrix comes in column blocks as in billhook_linear, offset[j] = column[j] * width.
BILLHOOK_API void billhook_lstm_batch(const billhook::SparseRows* blocks, int64_t block_count,
                                      const float* inputs, float* h, float* c, float* outputs,
                                      int64_t columns,
                                      int64_t width, const int64_t* first, const int64_t* counts,
                                      int64_t time_steps, int64_t reverse, int64_t threads,
                                      int64_t isa) {
  using namespace billhook;
  const int64_t units = blocks->rows / 4;
  const SpmmTile tile = spmm_tile_for(isa);
  const LstmCell cell = lstm_cell_for(isa);
  float* gates = scratch(1, 4 * units * width);
  const int64_t parts = threads == 1 ? 1 : 4 * threads;
  for (int64_t k = 0; k < time_steps; ++k) {
    const int64_t t = reverse ? time_steps - 1 - k : k;
    if (counts[t] == 0) continue;
    parallel_for(parts, threads, [&](int64_t part) {
      const int64_t begin = split_rows(*blocks, part, parts);
      const int64_t end = split_rows(*blocks, part + 1, parts);
      tile(blocks[0], begin, end, {h, inputs + first[t], nullptr, gates, columns, width, counts[t]});
      for (int64_t b = 1; b < block_count; ++b)
        tile(blocks[b], begin, end, {h, gates, nullptr, gates, width, width, counts[t]});
    });
    parallel_for(parts, threads, [&](int64_t part) {
      for (int64_t u = units * part / parts; u < units * (part + 1) / parts; ++u) {
        float* gate = gates + u * width;
        const int64_t next = units * width;
        cell(gate, gate + next, gate + 2 * next, gate + 3 * next, c + u * width, h + u * width,
             counts[t]);
        std::memcpy(outputs + u * columns + first[t], h + u * width,
                    static_cast<size_t>(counts[t]) * sizeof(float));
      }
    });
  }
}
