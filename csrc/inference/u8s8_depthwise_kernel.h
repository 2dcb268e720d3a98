// The kernel of u8s8_depthwise.h, for the instruction set of the file that includes it.
#include <algorithm>
#include <utility>

#include "u8_run.h"
#include "u8s8_depthwise.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

#define BILLHOOK_ALWAYS __attribute__((always_inline))

// body(i) for i < count. A kCount that is not 0 is the count: then the calls are written out, i constant.
template <int kCount, typename Body>
BILLHOOK_ALWAYS inline void repeat(int64_t count, const Body& body) {
  if constexpr (kCount == 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
  } else {
    [&]<int... i>(std::integer_sequence<int, i...>) BILLHOOK_ALWAYS {
      (body(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, kCount>{});
  }
}

// A filter's sizes and column stride. Rows and columns are 0 where only the window says them; then taps
// stay in memory.
template <int kStrideOf, int kRowsOf, int kColumnsOf>
struct Shape {
  static constexpr int kStride = kStrideOf, kRows = kRowsOf, kForms = depthwise_forms(kStride);
  static constexpr int kRuns = kRows == 0 ? 0 : depthwise_runs(kColumnsOf, kStride, kRun);
  static constexpr int kStep = kRun / 2;  // runs from one that a sum takes to the next
};

// What one quad is multiplied by.
template <typename S>
struct Filter {
  const int64_t rows, runs;
  const int8_t* const value;
  const Sums bias;
  const Floats scale;
  Taps kept[S::kRows == 0 ? 1 : S::kRows * S::kRuns * S::kForms];

  Filter(const Window2d& w, const DepthwiseQuads& d, int64_t quad)
      : rows(w.kernel_height),
        runs(depthwise_runs(w.kernel_width, S::kStride, kRun)),
        value(d.value + kTapBytes * quad * rows * runs * S::kForms),
        bias(sums_of(splat_lane(d.bias + 4 * quad))),
        scale(as_floats(splat_lane(d.scale + 4 * quad))) {
    repeat<S::kRows * S::kRuns * S::kForms>(0, [&](auto i) BILLHOOK_ALWAYS {
      kept[i] = taps(value + kTapBytes * i);
    });
  }
  BILLHOOK_ALWAYS inline Taps at(int64_t row, int64_t run, int64_t form) const {
    const int64_t index = (row * (S::kRows == 0 ? runs : S::kRuns) + run) * S::kForms + form;
    if constexpr (S::kRows == 0) return taps(value + kTapBytes * index);
    else return kept[index];
  }
};

// kPixels results, the first of whose windows begins at x. Of a lane two runs are taken, two pixels apart:
// at stride 1 each makes two of its four results; at stride 2 each makes one, and a second vector the rest.
template <typename S>
BILLHOOK_INLINE void convolve_pixels(const Filter<S>& f, const uint8_t* x, int64_t pitch, uint8_t* y,
                                     int64_t count) {
  Sums s[4] = {f.bias, f.bias, f.bias, f.bias};
  repeat<S::kRows>(f.rows, [&](auto row) BILLHOOK_ALWAYS {
    repeat<S::kRuns>(f.runs, [&](auto run_) BILLHOOK_ALWAYS {
      repeat<S::kStride>(0, [&](auto vector) BILLHOOK_ALWAYS {
        repeat<2>(0, [&](auto second) BILLHOOK_ALWAYS {
          const int64_t pixel = kPixels * vector + 2 * (S::kStep * run_ + second);
          const Run own = run(load(x + row * pitch + 4 * pixel));
          repeat<S::kForms>(0, [&](auto form) BILLHOOK_ALWAYS {
            const int result = S::kStride == 1 ? 2 * second + form : 2 * vector + second;
            dot(s[result], own, f.at(row, run_, form));
          });
        });
      });
    });
  });
  const Bytes made = join(pair(quantised(s[0], f.scale), quantised(s[1], f.scale)),
                          pair(quantised(s[2], f.scale), quantised(s[3], f.scale)));
  const Bytes v = S::kStride == 1 ? made : evens_then_odds(made);
  if (count >= kPixels) store(y, v);
  else store_where(y, pixels_between(0, count), v);
}

BILLHOOK_INLINE void copy_row(const uint8_t* x, int64_t width, uint8_t* to) {
  if (width < kPixels) return store_where(to, pixels_between(0, width), load(x));
  for (int64_t p = 0; p < width - kPixels; p += kPixels) store(to + 4 * p, load(x + 4 * p));
  store(to + 4 * (width - kPixels), load(x + 4 * (width - kPixels)));
}

BILLHOOK_INLINE void fill(uint8_t* begin, int64_t bytes, Bytes v) {
  for (int64_t at = 0; at < bytes; at += 4 * kPixels) store(begin + at, v);
}

// Rows [top, top + count) of a map and its surroundings; at both its sides padding is there already.
void copy_rows(const Window2d& w, const uint8_t* x, int64_t top, int64_t count, uint8_t* to,
               int64_t pitch, Bytes padding) {
  for (int64_t row = top; row < top + count; ++row, to += pitch) {
    if (row < 0 || row >= w.in_height) fill(to, pitch, padding);
    else copy_row(x + 4 * row * w.in_width, w.in_width, to + 4 * w.pad_left);
  }
}

template <typename S>
void convolve(const Window2d& window, const DepthwiseQuads& d, const QuadMaps& maps, int64_t first,
              int64_t last) {
  const Window2d w = window;  // which y is not, for the compiler
  const int64_t pitch = depthwise_pitch(w, kPixels), band = depthwise_band(w, kPixels);
  const Bytes padding = splat_bytes(static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(w.zero)));
  const int64_t bytes = pitch * depthwise_rows(w, std::min(band, w.height));
  uint8_t* rows = byte_scratch(kPanelSlot, bytes + kDepthwiseSlack);
  rows += -reinterpret_cast<uintptr_t>(rows) % kSlack;
  fill(rows, bytes, padding);
  for (int64_t quad = first; quad < last; ++quad) {
    const Filter<S> f(w, d, quad);
    uint8_t* y = maps.y + quad * maps.y_plane;
    for (int64_t i = 0, left = w.height * w.width; i < w.height;) {
      const int64_t count = std::min(band, w.height - i);
      copy_rows(w, maps.x + quad * maps.x_plane, i * w.stride_height - w.pad_top,
                depthwise_rows(w, count), rows, pitch, padding);
      const uint8_t* x = rows;
      for (const int64_t end = i + count; i < end; ++i, x += w.stride_height * pitch) {
        // What is stored beyond a row's end is overwritten by the next row.
        for (int64_t j = 0; j < w.width; j += kPixels)
          convolve_pixels(f, x + 4 * S::kStride * j, pitch, y + 4 * j, left - j);
        y += 4 * w.width, left -= w.width;
      }
    }
  }
}

template <int kStride>
U8Depthwise convolution_for(int64_t height, int64_t width) {
  if (height == 3 && width == 3) return convolve<Shape<kStride, 3, 3>>;
  return convolve<Shape<kStride, 0, 0>>;
}

}  // namespace

void u8s8_depthwise(const Window2d& w, const DepthwiseQuads& d, const QuadMaps& maps, int64_t first,
                    int64_t last) {
  const auto of = w.stride_width == 1 ? convolution_for<1> : convolution_for<2>;
  of(w.kernel_height, w.kernel_width)(w, d, maps, first, last);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
