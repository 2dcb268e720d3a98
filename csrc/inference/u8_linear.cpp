#include "u8_linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "abi.h"
#include "f32_panel.h"
#include "isa.h"
#include "parallel.h"
#include "u8_lstm.h"
#include "u8_map.h"

namespace billhook {

U8Spmv u8s8_spmv_for(int64_t isa) {
  return version_for<U8Spmv>(isa, {{kPortable, portable::u8s8_spmv}
      BILLHOOK_X86({kAvx2, avx2::u8s8_spmv}, {kAvxVnni, avxvnni::u8s8_spmv},
                   {kAvx512Vnni, avx512vnni::u8s8_spmv})
      BILLHOOK_ARM({kNeonDot, neondot::u8s8_spmv})});
}

namespace {

// A buffer of this thread, valid until the thread asks again for `slot`.
uint8_t* byte_scratch(int slot, int64_t bytes) {
  static thread_local std::vector<uint8_t> buffers[2];
  std::vector<uint8_t>& buffer = buffers[slot];
  if (buffer.size() < static_cast<size_t>(bytes)) buffer.resize(static_cast<size_t>(bytes));
  return buffer.data();
}

}  // namespace

void u8_multiply(const U8Matrix& m, const uint8_t* x, float step, float* y, int64_t threads,
                 int64_t isa) {
#if defined(__x86_64__)
  if (m.vector_windows != nullptr)
    return parallel_ranges(m.vector_windows->packs, threads, [&](int64_t first, int64_t last) {
      avx512vbmi::u8s8_spmv(*m.vector_windows, first, last, x, step, y);
    });
#endif
  const U8Spmv spmv = u8s8_spmv_for(isa);
  parallel_ranges(m.vector->packs, threads, [&](int64_t first, int64_t last) {
    spmv(*m.vector, first, last, x, step, y);
  });
}

void u8_multiply_panel(const U8Matrix& m, const QuadPanel& panel, bool relu, float* y,
                       int64_t y_stride, int64_t threads, int64_t isa) {
  const U8Map& map = u8_map_for(isa);
  const int64_t lines = (panel.samples + kLine - 1) / kLine, width = kLine * lines;
  const bool windows = m.batch_windows != nullptr;
  const int64_t unit = windows ? 16 : std::max<int64_t>(m.batch->group, 4);
  const int64_t units = (m.rows + unit - 1) / unit;
  const U8SpmmTile spmm = u8s8_spmm_for(isa);
  constexpr int64_t kRows = 64;
  const int64_t chunk = std::max<int64_t>(1, kRows / unit), chunks = (units + chunk - 1) / chunk;
  parallel_for(chunks, threads, [&](int64_t c) {
    const int64_t begin = c * chunk, end = std::min(units, begin + chunk);
    const int64_t r0 = begin * unit, rows = std::min(m.rows, end * unit) - r0;
    float* sums = scratch(0, kRows * width);
    QuadTile tile{};
    tile.x = panel.x;
    tile.x_plane = panel.plane;
    tile.floats = sums - r0 * width;
    tile.y_plane = width;
    tile.lines = lines;
#if defined(__x86_64__)
    if (windows) avx512vbmi::u8s8_spmm(*m.batch_windows, begin, end, tile);
#endif
    if (!windows) {
      const int64_t groups = unit / m.batch->group;
      spmm(*m.batch, begin * groups, std::min(end * groups, m.batch->groups), tile);
    }
    if (relu)
      for (int64_t i = 0; i < rows * width; ++i) sums[i] = sums[i] > 0.0f ? sums[i] : 0.0f;
    map.turn_back(sums, width, rows, panel.samples, panel.steps,
                  m.offset != nullptr ? m.offset + r0 : nullptr, y + r0, y_stride);
  });
}

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
  uint8_t* panel = byte_scratch(0, 4 * width * quads + kSlack);
  uint8_t* bytes = byte_scratch(1, 4 * quads * count + kSlack);
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
    uint8_t* bytes = byte_scratch(0, (matrix->columns + 63) / 64 * 64 + kSlack);
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
