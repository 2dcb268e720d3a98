// Panels: the operand of a tile, rearranged so that its columns are contiguous and near.
#pragma once
#include <cstdint>
#include <vector>

namespace billhook {

constexpr int kSlots = 8;

// A buffer of this thread, at least `floats` long, valid until the thread asks again for `slot`.
float* scratch(int slot, int64_t floats);

// Memory that scratch() uses as long as it is enough, so that it takes none of its own.
struct Lent {
  float* start[kSlots];
  int64_t floats[kSlots];
};
// To this thread; null takes it back.
void lend(const Lent* lent);

// panel[k * width + p] = x[offset[k] + p] for p < n, and +0.0 up to width.
void gather_panel(const float* x, const int32_t* offset, int64_t rows, int64_t n, int64_t width,
                  float* panel);

// y[c * y_stride + r] = x[r * x_stride + c] for r < rows, c < columns.
void transpose(const float* x, int64_t x_stride, int64_t rows, int64_t columns, float* y,
               int64_t y_stride);

}  // namespace billhook
