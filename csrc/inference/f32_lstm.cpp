#include "f32_lstm.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "abi.h"
#include "isa.h"
#include "f32_panel.h"
#include "f32_recurrent.h"
#include "parallel.h"

namespace billhook {

namespace {

constexpr int64_t kUnitBlock = kChunk / 4;

struct UnitBlock {
  int64_t units, first, last;  // of all the units, these
  int64_t width, count;
};

// The four gates of some units, before their activations: kUnitBlock rows each, one chunk of the
// matrix. `inputs` has one row of 4 * units per sample.
const float* block_gates(const UnitBlock& b, Blocks recurrent, const float* inputs, const float* h,
                         SpmmTile tile) {
  float* gates = scratch(2, kChunk * b.width);
  for (int64_t gate = 0; gate < 4; ++gate)
    transpose(inputs + gate * b.units + b.first, 4 * b.units, b.count, b.last - b.first,
              gates + gate * kUnitBlock * b.width, b.width);
  const int64_t first = 4 * b.first;
  float* rows = gates - first * b.width;  // row `first` of the matrix is the first one there
  const Tile t{h, b.width, rows, nullptr, rows, b.width, b.width, b.count};
  for (int64_t i = 0; i < recurrent.count; ++i)
    tile(recurrent.first[i], first, first + kChunk, t);
  return gates;
}

// c and the next h of some units; samples beyond `count` keep their values.
void update_block(const UnitBlock& b, const float* gates, const float* h, float* c, float* next,
                  LstmCell cell) {
  std::copy(h + b.first * b.width, h + b.last * b.width, next + b.first * b.width);
  const int64_t gate = kUnitBlock * b.width;
  for (int64_t u = b.first; u < b.last; ++u) {
    const float* i = gates + (u - b.first) * b.width;
    cell(i, i + gate, i + 2 * gate, i + 3 * gate, c + u * b.width, next + u * b.width, b.count);
  }
}

}  // namespace

}  // namespace billhook

// Batch 1. inputs[t] and outputs[t] are rows of 4 * units (biases included) and of output_stride
// floats; h and c hold the first state and are left with the last one. reverse: last step first.
BILLHOOK_API int64_t billhook_lstm_vector(const billhook::LaneRows* recurrent, const float* inputs,
                                       float* h, float* c, float* outputs, int64_t output_stride,
                                       int64_t time_steps, int64_t reverse, int64_t threads,
                                       int64_t isa) try {
  using namespace billhook;
  const int64_t units = recurrent->columns;
  const auto cell = BILLHOOK_FP32(LstmCell, lstm_cell, isa);
  float* gates = scratch(1, 4 * units);
  for (int64_t k = 0; k < time_steps; ++k) {
    const int64_t t = reverse ? time_steps - 1 - k : k;
    spmv(*recurrent, h, inputs + t * 4 * units, gates, threads, isa);
    cell(gates, gates + units, gates + 2 * units, gates + 3 * units, c, h, units);
    std::memmove(outputs + t * output_stride, h, static_cast<size_t>(units) * sizeof(float));
  }
  return 0;
} catch (...) {
  return billhook::failure();
}

// The same for a GRU: rows of 3 * units, the recurrent matrix with its own bias, and no c.
BILLHOOK_API int64_t billhook_gru_vector(const billhook::LaneRows* recurrent, const float* inputs,
                                      float* h, float* outputs, int64_t output_stride,
                                      int64_t time_steps, int64_t reverse, int64_t threads,
                                      int64_t isa) try {
  using namespace billhook;
  const int64_t units = recurrent->columns;
  const auto cell = BILLHOOK_FP32(GruCell, gru_cell, isa);
  float* sums = scratch(1, 3 * units);
  for (int64_t k = 0; k < time_steps; ++k) {
    const int64_t t = reverse ? time_steps - 1 - k : k;
    spmv(*recurrent, h, nullptr, sums, threads, isa);
    cell(inputs + t * 3 * units, sums, h, units);
    std::memmove(outputs + t * output_stride, h, static_cast<size_t>(units) * sizeof(float));
  }
  return 0;
} catch (...) {
  return billhook::failure();
}

// Up to `width` samples. Step t has counts[t] samples, rows from first[t] of inputs (4 * units
// floats, biases included) and of outputs (output_stride). h and c are units x width; a sample's
// state changes in the steps it takes part in and stays otherwise, so that either direction handles
// sequences of unequal length sorted by falling length. A chunk of the matrix has the gates of
// kUnitBlock units, the last one empty rows for those that it lacks.
BILLHOOK_API int64_t billhook_lstm_batch(const billhook::Blocks* recurrent, const float* inputs,
                                      float* h, float* c, int64_t units, float* outputs,
                                      int64_t output_stride, int64_t width, const int64_t* first,
                                      const int64_t* counts, int64_t time_steps, int64_t reverse,
                                      int64_t threads, int64_t isa) try {
  using namespace billhook;
  const int64_t parts = (units + kUnitBlock - 1) / kUnitBlock;
  const SpmmTile tile = spmm_tile_for(isa);
  const auto cell = BILLHOOK_FP32(LstmCell, lstm_cell, isa);
  float* now = h;
  float* next = scratch(1, units * width);
  for (int64_t k = 0; k < time_steps; ++k) {
    const int64_t t = reverse ? time_steps - 1 - k : k;
    if (counts[t] == 0) continue;
    parallel_for(parts, threads, [&](int64_t part) {
      const UnitBlock block{units, part * kUnitBlock, std::min((part + 1) * kUnitBlock, units),
                            width, counts[t]};
      const float* gates = block_gates(block, *recurrent, inputs + first[t] * 4 * units, now, tile);
      update_block(block, gates, now, c, next, cell);
    });
    std::swap(now, next);
    transpose(now, width, units, counts[t], outputs + first[t] * output_stride, output_stride);
  }
  if (now != h) std::memmove(h, now, static_cast<size_t>(units * width) * sizeof(float));
  return 0;
} catch (...) {
  return billhook::failure();
}
