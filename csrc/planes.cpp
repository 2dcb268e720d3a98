#include "planes.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "panel.h"

namespace billhook {

void copy_phases(const Step& step, const float* x, float* y) {
  const int64_t sh = step.stride_height, sw = step.stride_width;
  const int64_t phase_plane = step.y.plane / (sh * sw);
  for (int64_t a = 0; a < sh; ++a)
    for (int64_t b = 0; b < sw; ++b) {
      float* phase = y + (a * sw + b) * phase_plane;
      for (int64_t i = 0; i < step.height; ++i) {
        float* to = phase + i * step.y.pitch;
        const bool inside = i * sh + a < step.in_height;
        const int64_t available = inside ? (step.in_width - b + sw - 1) / sw : 0;
        const int64_t count = std::clamp<int64_t>(available, 0, step.width);
        const float* from = x + (i * sh + a) * step.x.pitch + b;
        if (sw == 1)
          std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
        else if (sw == 2)
          for (int64_t j = 0; j < count; ++j) to[j] = from[2 * j];
        else
          for (int64_t j = 0; j < count; ++j) to[j] = from[j * sw];
        std::fill(to + count, to + step.y.pitch, 0.0f);
      }
    }
}

namespace {

// Folds the window's rows into one row, then its columns, so that the inner loops run over pixels.
template <typename Fold>
void pool_row(const Step& step, const float* x, int64_t i, float start, const Fold& fold,
              float* row, float* to) {
  const int64_t top = i * step.stride_height - step.pad_top;
  const int64_t first = std::max<int64_t>(top, 0);
  const int64_t last = std::min(top + step.kernel_height, step.in_height);
  std::fill(row, row + step.in_width, start);
  for (int64_t r = first; r < last; ++r) {
    const float* from = x + r * step.x.pitch;
    for (int64_t j = 0; j < step.in_width; ++j) row[j] = fold(row[j], from[j]);
  }
  std::fill(to, to + step.width, start);
  for (int64_t k = 0; k < step.kernel_width; ++k) {
    const int64_t stride = step.stride_width, shift = k - step.pad_left;
    const int64_t begin = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
    const int64_t room = step.in_width - shift;  // j * stride + shift < in_width
    const int64_t end = std::min(step.width, room <= 0 ? 0 : (room + stride - 1) / stride);
    const float* from = row + shift;
    if (stride == 1)
      for (int64_t j = begin; j < end; ++j) to[j] = fold(to[j], from[j]);
    else
      for (int64_t j = begin; j < end; ++j) to[j] = fold(to[j], from[j * stride]);
  }
}

int64_t covered(int64_t index, int64_t stride, int64_t pad, int64_t kernel, int64_t size) {
  const int64_t start = index * stride - pad;
  return std::min(start + kernel, size) - std::max<int64_t>(start, 0);
}

}  // namespace

void max_pool(const Step& step, const float* x, float* y) {
  float* row = scratch(0, step.in_width);
  // As torch: a NaN in the window is the maximum.
  const auto larger = [](float a, float b) { return b > a || b != b ? b : a; };
  for (int64_t i = 0; i < step.height; ++i) {
    float* to = y + i * step.y.pitch;
    pool_row(step, x, i, -std::numeric_limits<float>::infinity(), larger, row, to);
    std::fill(to + step.width, to + step.y.pitch, 0.0f);
  }
}

void average_pool(const Step& step, const float* x, float* y) {
  float* row = scratch(0, step.in_width);
  float* columns = scratch(1, step.width);  // that each pixel's window has
  for (int64_t j = 0; j < step.width; ++j)
    columns[j] = static_cast<float>(
        step.count_padding
            ? step.kernel_width
            : covered(j, step.stride_width, step.pad_left, step.kernel_width, step.in_width));
  for (int64_t i = 0; i < step.height; ++i) {
    float* to = y + i * step.y.pitch;
    pool_row(step, x, i, 0.0f, [](float a, float b) { return a + b; }, row, to);
    const int64_t rows =
        step.count_padding
            ? step.kernel_height
            : covered(i, step.stride_height, step.pad_top, step.kernel_height, step.in_height);
    for (int64_t j = 0; j < step.width; ++j) to[j] /= static_cast<float>(rows) * columns[j];
    std::fill(to + step.width, to + step.y.pitch, 0.0f);
  }
}

float mean(const Step& step, const float* x) {
  double sum = 0.0;
  for (int64_t i = 0; i < step.in_height; ++i)
    for (int64_t j = 0; j < step.in_width; ++j) sum += x[i * step.x.pitch + j];
  return static_cast<float>(sum / static_cast<double>(step.in_height * step.in_width));
}

void add(const Step& step, const float* x, const float* addend, float* y) {
  for (int64_t i = 0; i < step.height; ++i) {
    float* to = y + i * step.y.pitch;
    for (int64_t j = 0; j < step.width; ++j) {
      float value = x[i * step.x.pitch + j];
      if (addend != nullptr) value += addend[i * step.addend.pitch + j];
      if (step.activation != kNone && value < 0.0f) value = 0.0f;
      if (step.activation == kRelu6 && value > 6.0f) value = 6.0f;
      to[j] = value;
    }
    std::fill(to + step.width, to + step.y.pitch, 0.0f);
  }
}

}  // namespace billhook
