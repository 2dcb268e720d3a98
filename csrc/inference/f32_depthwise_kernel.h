// The plane kernel of f32_depthwise.h, for the instruction set of the file that includes it.
#include "activate.h"
#include "f32_depthwise.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// One weight over a strip of pixels: which of the source's floats from `column` on are in its rows.
struct Tap {
  Vec value;
  int64_t row, column;
  Mask low, high;
};

// The pixels of a plane's columns [column, column + kLanes), and the nonzero taps of its filter.
struct Strip {
  int64_t column;
  Vec bias;
  int64_t count;
  Tap taps[kMaxTaps];
};

void prepare_strip(const Step& step, int64_t channel, int64_t j, Strip& strip) {
  const SparseRows& w = *step.rows.first;
  const auto width = static_cast<int32_t>(step.kernel_width);
  strip.column = j;
  strip.bias = splat(w.bias != nullptr ? w.bias[channel] : 0.0f);
  strip.count = 0;
  for (int64_t k = w.row_ptr[channel]; k < w.row_ptr[channel + 1]; ++k) {
    const int64_t column = j * step.stride_width + w.offset[k] % width - step.pad_left;
    const int64_t row = w.offset[k] / width - step.pad_top;
    const int64_t first = -column, last = step.in_width - column;
    strip.taps[strip.count++] = {splat(w.value[k]), row, column, lanes_between(first, last),
                                 lanes_between(first - kLanes, last - kLanes)};
  }
}

// kRows rows of a strip from row i on: a tap's weight and masks are loaded once for all of them.
// Several rows must have all taps inside; a row by itself leaves out those above and below.
template <int kStride, int kRows>
BILLHOOK_INLINE void rows_of_strip(const Step& step, const Strip& strip, int64_t i, const float* x,
                                   float* y) {
  Vec acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = strip.bias;
  for (int64_t t = 0; t < strip.count; ++t) {
    const Tap& tap = strip.taps[t];
    const int64_t row = i * step.stride_height + tap.row;
    if (kRows == 1 && (row < 0 || row >= step.in_height)) continue;
    const float* p = x + row * step.x.pitch + tap.column;
    for (int r = 0; r < kRows; ++r, p += step.stride_height * step.x.pitch) {
      Vec pixels = load_where(p, tap.low);
      if (kStride == 2) pixels = even_lanes(pixels, load_where(p + kLanes, tap.high));
      acc[r] = fma(tap.value, pixels, acc[r]);
    }
  }
  activate<kRows>(step.rows.first->activation, acc);
  for (int r = 0; r < kRows; ++r)
    store_up_to(y + (i + r) * step.y.pitch + strip.column, acc[r], step.width - strip.column);
}

template <int kStride>
void run_strip(const Step& step, const Strip& strip, const float* x, float* y) {
  constexpr int kRows = 4;
  const int64_t bottom = step.kernel_height - 1 - step.pad_top;  // row of the last tap
  for (int64_t i = 0; i < step.height;) {
    const int64_t first = i * step.stride_height - step.pad_top;
    const int64_t last = (i + kRows - 1) * step.stride_height + bottom;
    if (i + kRows <= step.height && first >= 0 && last < step.in_height) {
      rows_of_strip<kStride, kRows>(step, strip, i, x, y);
      i += kRows;
    } else {
      rows_of_strip<kStride, 1>(step, strip, i, x, y);
      ++i;
    }
  }
}

}  // namespace

void depthwise_plane(const Step& step, int64_t channel, const float* x, float* y) {
  Strip strip;
  for (int64_t j = 0; j < step.width; j += kLanes) {
    prepare_strip(step, channel, j, strip);
    (step.stride_width == 1 ? run_strip<1> : run_strip<2>)(step, strip, x, y);
  }
  for (int64_t i = 0; i < step.height; ++i)
    for (int64_t j = step.width; j < step.y.pitch; ++j) y[i * step.y.pitch + j] = 0.0f;
}

}  // namespace billhook::BILLHOOK_NAMESPACE
