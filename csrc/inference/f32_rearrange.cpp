#include "f32_rearrange.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

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
      // A file from elsewhere may place both ends over each other.
      std::memmove(y, x, static_cast<size_t>(step.size[inner]) * sizeof(float));
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

// Of an output pixel the first of two neighbouring input pixels, and the share of the second.
struct Place {
  int64_t first;
  float share;
};

Place place(int64_t i, int64_t size, double scale, bool corners) {
  const double offset = corners ? 0.0 : 0.5;
  const double at = std::clamp(scale * (static_cast<double>(i) + offset) - offset, 0.0,
                               static_cast<double>(size - 1));
  const auto first = static_cast<int64_t>(at);
  return {first, static_cast<float>(at - static_cast<double>(first))};
}

// A row of the input's width from the two rows that an output row lies between.
void mix_rows(const Step& step, const float* x, const Place& row, float* mixed) {
  const float* above = x + row.first * step.x.pitch;
  const float* below = x + std::min(row.first + 1, step.in_height - 1) * step.x.pitch;
  for (int64_t j = 0; j < step.in_width; ++j)
    mixed[j] = (1.0f - row.share) * above[j] + row.share * below[j];
}

[[noreturn]] void beyond(float index, int64_t rows) {
  char text[128];
  std::snprintf(text, sizeof text,
                "the index %.9g is beyond the rows of its table: give whole numbers from 0 to %lld",
                static_cast<double>(index), static_cast<long long>(rows - 1));
  throw std::out_of_range(text);
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
    if (!(index >= 0.0f && index < static_cast<float>(step.in_height))) beyond(index, step.in_height);
    const float* row = at.addend + static_cast<int64_t>(index) * step.addend.pitch;
    float* y = at.y + j;
    for (int64_t f = 0; f < step.channels; ++f) y[f * step.y.plane] = row[f];
  }
  clear_row_ends(step, at.y, step.channels);
}

void run_resize(const Step& step, const Operands& at) {
  const bool corners = step.function == 1;
  parallel_ranges(step.channels, at.threads, [&](int64_t begin, int64_t end) {
    float* mixed = scratch(0, step.in_width);
    float* shares = scratch(1, 2 * step.width);  // then where each output column's first pixel is
    auto* firsts = reinterpret_cast<int32_t*>(shares + step.width);
    for (int64_t j = 0; j < step.width; ++j) {
      const Place column = place(j, step.in_width, step.parameters[1], corners);
      shares[j] = column.share;
      firsts[j] = static_cast<int32_t>(column.first);
    }
    for (int64_t c = begin; c < end; ++c)
      for (int64_t i = 0; i < step.height; ++i) {
        const Place row = place(i, step.in_height, step.parameters[0], corners);
        mix_rows(step, at.x + c * step.x.plane, row, mixed);
        float* y = at.y + c * step.y.plane + i * step.y.pitch;
        for (int64_t j = 0; j < step.width; ++j) {
          const int64_t first = firsts[j], second = std::min(first + 1, step.in_width - 1);
          y[j] = (1.0f - shares[j]) * mixed[first] + shares[j] * mixed[second];
        }
        std::fill(y + step.width, std::max(y + step.width, y + step.y.pitch), 0.0f);
      }
  });
}

}  // namespace billhook
