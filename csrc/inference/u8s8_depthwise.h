// Depthwise convolution of any number of taps and column stride 1 or 2 on quads of u8, weights s8,
// exact sums in s32.
//
// A "run" is neighbouring pixels of each channel side by side, as many as one product takes: a lane's
// first four pixels as bytes, or for AVX2 its first two as words. Runs begin at every other pixel. At
// stride 1 a run is part of two sums: taps as they are make the one whose window begins there, taps moved
// by one, with a zero before them, the next. These are its two forms; at stride 2 there is but the first.
#pragma once
#include <cstdint>

#include "u8_map.h"

namespace billhook {

// Mirrored by bindings.py. A quad has for each row of taps, each run of it and each form the taps of its
// four channels, 16 bytes; and four biases and four scales.
struct DepthwiseQuads {
  const int8_t* value;
  const int32_t* bias;
  const float* scale;
};

constexpr int64_t kTapBytes = 16;  // of four channels' taps

// At column stride 1 or 2: the forms of a run's taps, and the runs of `run` pixels that a row takes.
constexpr int64_t depthwise_forms(int64_t stride) { return 3 - stride; }
constexpr int64_t depthwise_runs(int64_t width, int64_t stride, int64_t run) {
  return (width + depthwise_forms(stride) - 1 + run - 1) / run;
}

// Maps are copied with their padding, as many rows at once as fill a part of the first-level cache. Bytes
// of a row, in whole vectors of `pixels`; rows of results that are made at once; rows of the operand of so many.
constexpr int64_t kBandBytes = 1 << 14;
constexpr int64_t depthwise_pitch(const Window2d& w, int64_t pixels) {
  const int64_t read = w.stride_width * (w.width + pixels - 1) + w.kernel_width + 2;
  const int64_t copied = w.pad_left + w.in_width;
  return 4 * (((read > copied ? read : copied) + pixels - 1) / pixels * pixels);
}
constexpr int64_t depthwise_band(const Window2d& w, int64_t pixels) {
  const int64_t rows = kBandBytes / depthwise_pitch(w, pixels) - w.kernel_height;
  return rows < 0 ? 1 : rows / w.stride_height + 1;
}
constexpr int64_t depthwise_rows(const Window2d& w, int64_t results) {
  return (results - 1) * w.stride_height + w.kernel_height;
}
constexpr int64_t kDepthwiseSlack = 2 * kSlack;  // bytes beyond these rows

// Maps of quads, planes so many bytes apart.
struct QuadMaps {
  const uint8_t* x;
  int64_t x_plane;
  uint8_t* y;
  int64_t y_plane;
};

// y[p] = u8(scale * (bias + sum of taps)) of quads [first, last).
using U8Depthwise = void (*)(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                             int64_t last);

namespace portable {
void u8s8_depthwise(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                    int64_t last);
}
namespace avx2 {
void u8s8_depthwise(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                    int64_t last);
}
namespace avxvnni {
void u8s8_depthwise(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                    int64_t last);
}
namespace avx512vnni {
void u8s8_depthwise(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                    int64_t last);
}
namespace neondot {
void u8s8_depthwise(const Window2d&, const DepthwiseQuads&, const QuadMaps&, int64_t first,
                    int64_t last);
}

U8Depthwise u8s8_depthwise_for(int64_t isa);

}  // namespace billhook
