// The kernel of u8s8_depthwise.h, for the instruction set of the file that includes it.
#include "u8_vec.h"
#include "u8s8_depthwise.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// One quad's constants. taps[2 * row] are [w0 w1 w2 0], taps[2 * row + 1] are [0 w0 w1 w2].
struct Filter {
  Weights taps[6];
  Sums bias;
  Floats scale;
  Bytes padding;
  Filter(const DepthwiseQuads& d, int64_t quad)
      : bias(sums_of(splat_lane(d.bias + 4 * quad))),
        scale(as_floats(splat_lane(d.scale + 4 * quad))),
        padding(splat_bytes(static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(d.zero)))) {
    for (int i = 0; i < 6; ++i) taps[i] = weights(splat_lane(d.value + (24 * quad + 4 * i) * 4));
  }
};

// Input pixels of one row, from column `first` on, and their transposed lanes.
struct Window {
  int64_t offset;  // of the first pixel, in bytes
  PixelMask mask;
  Window(const DepthwiseQuads& d, int64_t first)
      : offset(4 * first), mask(pixels_between(-first, d.in_width - first)) {}
};

template <int kWindows>
struct Row {
  Operand at[kWindows];
};

template <int kWindows>
BILLHOOK_INLINE Row<kWindows> read_row(const DepthwiseQuads& d, const Filter& f, int64_t row,
                                       const uint8_t* x, const Window* windows) {
  Row<kWindows> r;
  if (row < 0 || row >= d.in_height) {
    for (int i = 0; i < kWindows; ++i) r.at[i] = operand(f.padding);  // transposed it is the same
    return r;
  }
  const uint8_t* begin = x + row * d.in_width * 4;
#pragma GCC unroll 4
  for (int i = 0; i < kWindows; ++i)
    r.at[i] = operand(transpose(load_where(begin + windows[i].offset, windows[i].mask, f.padding)));
  return r;
}

BILLHOOK_INLINE Bytes finish(const Filter& f, Sums a, Sums b, Sums c, Sums d) {
  return join(pair(quantised(a, f.scale), quantised(b, f.scale)),
              pair(quantised(c, f.scale), quantised(d, f.scale)));
}

BILLHOOK_INLINE void store_pixels(uint8_t* y, Bytes v, int64_t count) {
  if (count >= kPixels) return store(y, v);
  store_where(y, pixels_between(0, count), v);
}

// Stride 1: windows that begin at the first tap and two pixels later give four pixels per lane.
void stride_one(const DepthwiseQuads& d, const Filter& f, const uint8_t* x, uint8_t* y) {
  for (int64_t j = 0; j < d.width; j += kPixels) {
    const Window windows[2] = {{d, j - d.pad_left}, {d, j - d.pad_left + 2}};
    const auto read = [&](int64_t row) { return read_row<2>(d, f, row, x, windows); };
    const auto write = [&](int64_t i, const Row<2>& r0, const Row<2>& r1, const Row<2>& r2) {
      Sums s[4] = {f.bias, f.bias, f.bias, f.bias};
      const Row<2>* rows[3] = {&r0, &r1, &r2};
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        dot(s[0], rows[k]->at[0], f.taps[2 * k]);
        dot(s[1], rows[k]->at[0], f.taps[2 * k + 1]);
        dot(s[2], rows[k]->at[1], f.taps[2 * k]);
        dot(s[3], rows[k]->at[1], f.taps[2 * k + 1]);
      }
      store_pixels(y + 4 * (i * d.width + j), finish(f, s[0], s[1], s[2], s[3]), d.width - j);
    };
    Row<2> a = read(-d.pad_top), b = read(1 - d.pad_top), c;
    int64_t i = 0, next = 2 - d.pad_top;
    for (; i + 3 <= d.height; i += 3, next += 3) {
      c = read(next);
      write(i, a, b, c);
      a = read(next + 1);
      write(i + 1, b, c, a);
      b = read(next + 2);
      write(i + 2, c, a, b);
    }
    for (; i < d.height; ++i, ++next) {
      c = read(next);
      write(i, a, b, c);
      a = b;
      b = c;
    }
  }
}

// Stride 2: each lane of a window gives one pixel; four windows give as many as a vector holds.
void stride_two(const DepthwiseQuads& d, const Filter& f, const uint8_t* x, uint8_t* y) {
  for (int64_t j = 0; j < d.width; j += kPixels) {
    const int64_t first = 2 * j - d.pad_left;
    const Window windows[4] = {
        {d, first}, {d, first + 2}, {d, first + kPixels}, {d, first + kPixels + 2}};
    const auto read = [&](int64_t row) { return read_row<4>(d, f, row, x, windows); };
    Row<4> a = read(-d.pad_top);
    for (int64_t i = 0; i < d.height; ++i) {
      const Row<4> b = read(2 * i + 1 - d.pad_top), c = read(2 * i + 2 - d.pad_top);
      Sums s[4] = {f.bias, f.bias, f.bias, f.bias};
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        dot(s[k], a.at[k], f.taps[0]);
        dot(s[k], b.at[k], f.taps[2]);
        dot(s[k], c.at[k], f.taps[4]);
      }
      store_pixels(y + 4 * (i * d.width + j),
                   evens_then_odds(finish(f, s[0], s[1], s[2], s[3])), d.width - j);
      a = c;
    }
  }
}

}  // namespace

void u8s8_depthwise(const DepthwiseQuads& d, int64_t quad, const uint8_t* x, uint8_t* y) {
  (d.stride == 1 ? stride_one : stride_two)(d, Filter(d, quad), x, y);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
