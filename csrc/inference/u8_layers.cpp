// Layers in 8 bits of models that are not one program: products of fp32 batches, and LSTM.
#include <algorithm>
#include <cstring>
#include <vector>

#include "abi.h"
#include "isa.h"
#include "u8_linear.h"
#include "u8_lstm.h"
#include "u8_map.h"

namespace billhook {

namespace {

// The step of a sample: given, or the largest magnitude by 127.
float step_of(const float* x, int64_t columns, float given, const U8Map& map) {
  if (given > 0.0f) return given;
  const float largest = map.largest(x, columns);
  return largest > 0.0f || largest != largest ? largest / 127.0f : 1.0f;
}

struct Batch {
  const U8Matrix& matrix;
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
  float step;
  int64_t threads, isa;
};

// Up to `lines` lines of samples as the pixels of a map; results are turned back to rows.
bool multiply_samples(const Batch& b, int64_t first, int64_t count, const U8Map& map) {
  const U8Matrix& m = b.matrix;
  const int64_t lines = (count + kLine - 1) / kLine, width = kLine * lines;
  const int64_t quads = (m.columns + 3) / 4;
  std::vector<float> steps(static_cast<size_t>(width), 1.0f);
  uint8_t* panel = byte_scratch(kPanelSlot, 4 * width * quads + kSlack);
  uint8_t* bytes = byte_scratch(kBytesSlot, 4 * quads * count + kSlack);
  bool finite = true;
  for (int64_t s = 0; s < count; ++s) {
    const float* x = b.x + (first + s) * b.x_stride;
    const float step = step_of(x, m.columns, b.step, map);
    steps[static_cast<size_t>(s)] = step;
    finite &= map.quantise_vector(x, m.columns, 1.0f / step, 128.0f, bytes + 4 * quads * s);
  }
  map.turn(bytes, 4 * quads, count, quads, panel, width);
  u8_multiply_panel(m, {panel, 4 * width, count, steps.data()}, false, b.y + first * b.y_stride,
                    b.y_stride, b.threads, b.isa);
  return finite;
}

}  // namespace

}  // namespace billhook

// y[s] = W x[s] + offset with each sample in bytes at `step` (0: its largest magnitude by 127) around
// 128. Returns 1 if all of x was finite, else 0: y is undefined then.
BILLHOOK_API int64_t billhook_u8_linear(const billhook::U8Matrix* matrix, const float* x,
                                        int64_t x_stride, float* y, int64_t y_stride,
                                        int64_t samples, float step, int64_t lines,
                                        int64_t threads, int64_t isa) try {
  using namespace billhook;
  const U8Map& map = u8_map_for(isa);
  bool finite = true;
  if (samples == 1) {
    uint8_t* bytes = byte_scratch(kBytesSlot, (matrix->columns + 63) / 64 * 64 + kSlack);
    const float own = step_of(x, matrix->columns, step, map);
    finite = map.quantise_vector(x, matrix->columns, 1.0f / own, 128.0f, bytes);
    if (finite) u8_multiply(*matrix, bytes, own, y, threads, isa);
    return finite;
  }
  const Batch batch{*matrix, x, x_stride, y, y_stride, step, threads, isa};
  for (int64_t first = 0; first < samples; first += kLine * lines)
    finite &= multiply_samples(batch, first, std::min(kLine * lines, samples - first), map);
  return finite;
} catch (...) {
  return billhook::failure();
}

// An LSTM's layer and direction for one sample: gates (steps, 4 * units) are W_ih x + b, h and c the
// state, replaced; y has a row of h a step.
BILLHOOK_API int64_t billhook_u8_lstm(const billhook::U8Matrix* recurrent, const float* gates, float* h,
                                   float* c, float* y, int64_t y_stride, int64_t steps,
                                   int64_t reverse, int64_t threads, int64_t isa) try {
  using namespace billhook;
  const int64_t units = recurrent->columns;
  const auto cell = BILLHOOK_FP32(U8LstmCell, u8_lstm_cell, isa);
  std::vector<uint8_t> state(static_cast<size_t>((units + 63) / 64 * 64 + kSlack), 128);
  std::vector<float> sums(static_cast<size_t>(4 * units));
  u8_map_for(isa).quantise_vector(h, units, 127.0f, 128.0f, state.data());
  const float* last = h;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t at = reverse != 0 ? steps - 1 - t : t;
    u8_multiply(*recurrent, state.data(), 1.0f / 127.0f, sums.data(), threads, isa);
    cell(gates + at * 4 * units, sums.data(), units, c, y + at * y_stride, state.data());
    last = y + at * y_stride;
  }
  if (last != h) std::memcpy(h, last, static_cast<size_t>(units) * sizeof(float));
  return 0;
} catch (...) {
  return billhook::failure();
}
