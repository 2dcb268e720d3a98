#include "f32_rearrange.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "f32_panel.h"
#include "f32_planes.h"
#include "parallel.h"

namespace billhook {

namespace {

// The dimensions of a copy: the outer ones, and one or two inner ones that one call copies.
struct Copy {
  const Step& step;
  int64_t inner = -1;   // its elements are neighbours in y
  int64_t across = -1;  // another, whose elements are neighbours in x
  int64_t outer[kMaxDims];
  int64_t outer_count = 0;

  explicit Copy(const Step& s) : step(s) {
    for (int64_t d = 0; d < s.dims; ++d)
      if (s.to[d] == 1 && s.size[d] > 1) inner = d;
    if (inner >= 0 && s.from[inner] != 1)
      for (int64_t d = 0; d < s.dims; ++d)
        if (d != inner && s.from[d] == 1 && s.size[d] > 1) across = d;
    for (int64_t d = 0; d < s.dims; ++d)
      if (d != inner && d != across) outer[outer_count++] = d;
  }

  int64_t tasks() const {
    int64_t count = 1;
    for (int64_t o = 0; o < outer_count; ++o) count *= step.size[outer[o]];
    return count;
  }

  void run(int64_t task, const float* x, float* y) const {
    for (int64_t o = outer_count - 1; o >= 0; --o) {
      const int64_t d = outer[o], i = task % step.size[d];
      task /= step.size[d];
      x += i * step.from[d];
      y += i * step.to[d];
    }
    if (inner < 0) {
      *y = *x;
    } else if (across >= 0) {
      transpose(x, step.from[inner], step.size[inner], step.size[across], y, step.to[across]);
    } else if (step.from[inner] == 1) {
      std::memcpy(y, x, static_cast<size_t>(step.size[inner]) * sizeof(float));
    } else {
      const int64_t from = step.from[inner];
      for (int64_t j = 0; j < step.size[inner]; ++j) y[j] = x[j * from];
    }
  }
};

template <typename T>
void cast(const float* x, float* y, int64_t n) {
  const char* bytes = reinterpret_cast<const char*>(x);
  for (int64_t j = 0; j < n; ++j) {
    T value;
    std::memcpy(&value, bytes + j * static_cast<int64_t>(sizeof(T)), sizeof(T));
    y[j] = static_cast<float>(value);
  }
}

struct Place {
  int64_t first, second;
  float share;  // of the second
};

std::vector<Place> places(int64_t n, int64_t size, double scale, bool corners) {
  const double offset = corners ? 0.0 : 0.5;
  std::vector<Place> found(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const double at = std::clamp(scale * (static_cast<double>(i) + offset) - offset, 0.0,
                                 static_cast<double>(size - 1));
    const auto first = static_cast<int64_t>(at);
    found[static_cast<size_t>(i)] = {first, std::min(first + 1, size - 1),
                                     static_cast<float>(at - static_cast<double>(first))};
  }
  return found;
}

}  // namespace

void run_rearrange(const Step& step, const Operands& at) {
  const Copy copy(step);
  parallel_ranges(copy.tasks(), at.threads, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) copy.run(task, at.x, at.y);
  });
  clear_row_ends(step, at.y, step.channels);
}

void run_cast(const Step& step, const Operands& at) {
  if (step.function == kInt64)
    cast<int64_t>(at.x, at.y, step.width);
  else if (step.function == kInt32)
    cast<int32_t>(at.x, at.y, step.width);
  else
    cast<uint8_t>(at.x, at.y, step.width);
}

void run_embed(const Step& step, const Operands& at) {
  for (int64_t j = 0; j < step.width; ++j) {
    const float index = at.x[j];
    if (!(index >= 0.0f && index < static_cast<float>(step.in_height)))
      throw std::out_of_range("an index is beyond the rows of its table");
    const float* row = at.addend + static_cast<int64_t>(index) * step.addend.pitch;
    float* y = at.y + j;
    for (int64_t f = 0; f < step.channels; ++f) y[f * step.y.plane] = row[f];
  }
  clear_row_ends(step, at.y, step.channels);
}

void run_resize(const Step& step, const Operands& at) {
  const bool corners = step.function == 1;
  const auto rows = places(step.height, step.in_height, step.parameters[0], corners);
  const auto columns = places(step.width, step.in_width, step.parameters[1], corners);
  parallel_ranges(step.channels, at.threads, [&](int64_t begin, int64_t end) {
    float* mixed = scratch(0, step.in_width);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t i = 0; i < step.height; ++i) {
        const Place& row = rows[static_cast<size_t>(i)];
        const float* above = at.x + c * step.x.plane + row.first * step.x.pitch;
        const float* below = at.x + c * step.x.plane + row.second * step.x.pitch;
        for (int64_t j = 0; j < step.in_width; ++j)
          mixed[j] = (1.0f - row.share) * above[j] + row.share * below[j];
        float* y = at.y + c * step.y.plane + i * step.y.pitch;
        for (int64_t j = 0; j < step.width; ++j) {
          const Place& column = columns[static_cast<size_t>(j)];
          y[j] = (1.0f - column.share) * mixed[column.first] + column.share * mixed[column.second];
        }
        std::fill(y + step.width, std::max(y + step.width, y + step.y.pitch), 0.0f);
      }
  });
}

}  // namespace billhook
