#include "panel.h"

#include <cstring>
#include <memory>

namespace billhook {

namespace {
constexpr int kSlots = 4;
constexpr int64_t kAlignment = 16;  // floats
}  // namespace

float* scratch(int slot, int64_t floats) {
  thread_local std::vector<float> buffers[kSlots];
  std::vector<float>& buffer = buffers[slot];
  if (static_cast<int64_t>(buffer.size()) < floats + kAlignment)
    buffer.resize(static_cast<size_t>(floats + kAlignment));
  void* start = buffer.data();
  size_t room = buffer.size() * sizeof(float);
  return static_cast<float*>(
      std::align(kAlignment * sizeof(float), static_cast<size_t>(floats) * sizeof(float), start,
                 room));
}

void gather_panel(const float* x, const int32_t* offset, int64_t rows, int64_t n, int64_t width,
                  float* panel) {
  constexpr int64_t kBlock = 8;  // copies of a fixed size need no call
  const int64_t whole = n / kBlock * kBlock;
  for (int64_t k = 0; k < rows; ++k) {
    const float* from = x + offset[k];
    float* to = panel + k * width;
    for (int64_t p = 0; p < whole; p += kBlock) std::memcpy(to + p, from + p, kBlock * sizeof(float));
    for (int64_t p = whole; p < width; ++p) to[p] = p < n ? from[p] : 0.0f;
  }
}

void transpose(const float* x, int64_t x_stride, int64_t rows, int64_t columns, float* y,
               int64_t y_stride) {
  constexpr int64_t kBlock = 8;
  for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
    const int64_t c1 = c0 + kBlock < columns ? c0 + kBlock : columns;
    for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
      const int64_t r1 = r0 + kBlock < rows ? r0 + kBlock : rows;
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t r = r0; r < r1; ++r) y[c * y_stride + r] = x[r * x_stride + c];
    }
  }
}

}  // namespace billhook
