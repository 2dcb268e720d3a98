#include "f32_panel.h"

#include <cstring>
#include <memory>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace billhook {

namespace {
thread_local const Lent* lent_to_thread = nullptr;
constexpr int64_t kAlignment = 16;  // floats
constexpr int64_t kSquare = 4;

// kSquare rows of as many columns; in registers every x86-64 has.
inline void transpose_square(const float* x, int64_t x_stride, float* y, int64_t y_stride) {
#if defined(__SSE__)
  __m128 row[kSquare];
  for (int64_t i = 0; i < kSquare; ++i) row[i] = _mm_loadu_ps(x + i * x_stride);
  _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
  for (int64_t i = 0; i < kSquare; ++i) _mm_storeu_ps(y + i * y_stride, row[i]);
#else
  for (int64_t c = 0; c < kSquare; ++c)
    for (int64_t r = 0; r < kSquare; ++r) y[c * y_stride + r] = x[r * x_stride + c];
#endif
}
}  // namespace

void lend(const Lent* lent) { lent_to_thread = lent; }

float* scratch(int slot, int64_t floats) {
  if (lent_to_thread != nullptr && floats <= lent_to_thread->floats[slot])
    return lent_to_thread->start[slot];
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
  const int64_t whole_rows = rows / kSquare * kSquare, whole_columns = columns / kSquare * kSquare;
  for (int64_t c = 0; c < whole_columns; c += kSquare)
    for (int64_t r = 0; r < whole_rows; r += kSquare)
      transpose_square(x + r * x_stride + c, x_stride, y + c * y_stride + r, y_stride);
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
      y[c * y_stride + r] = x[r * x_stride + c];
}

}  // namespace billhook
