#include "f32_planes.h"

#include <algorithm>
#include <cstring>

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
          std::memmove(to, from, static_cast<size_t>(count) * sizeof(float));
        else if (sw == 2)
          for (int64_t j = 0; j < count; ++j) to[j] = from[2 * j];
        else
          for (int64_t j = 0; j < count; ++j) to[j] = from[j * sw];
        std::fill(to + count, to + step.y.pitch, 0.0f);
      }
    }
}

void clear_row_ends(const Step& step, float* y, int64_t planes) {
  if (step.y.pitch <= step.width) return;
  for (int64_t c = 0; c < planes; ++c)
    for (int64_t i = 0; i < step.height; ++i) {
      float* row = y + c * step.y.plane + i * step.y.pitch;
      std::fill(row + step.width, row + step.y.pitch, 0.0f);
    }
}

}  // namespace billhook
