// The kernels of u8_map.h, for the instruction set of the file that includes it.
#include <algorithm>

#include "f32_panel.h"
#include "u8_map.h"
#include "u8_table.h"
#include "u8_vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// Values scaled, NaN where one is not finite added to `finite`.
BILLHOOK_INLINE Sums bytes_of(Floats x, Floats inverse, Floats zero, Floats& finite) {
  finite = add(finite, multiply(x, splat_float(0.0f)));
  return rounded(at_most(add(multiply(x, inverse), zero), splat_float(255.0f)));
}

bool quantise(const float* x, int64_t x_plane, int64_t channels, int64_t pixels, float inverse,
              float zero, uint8_t* y) {
  const Floats scale = splat_float(inverse), shift = splat_float(zero);
  Floats finite = splat_float(0.0f);
  int64_t p = 0;
  for (; p + kPixels <= pixels; p += kPixels) {
    Sums s[4] = {splat(0), splat(0), splat(0), splat(0)};
    for (int64_t c = 0; c < channels; ++c)
      s[c] = bytes_of(load_floats(x + c * x_plane + p), scale, shift, finite);
    store(y + 4 * p, transpose(join(pair(s[0], s[1]), pair(s[2], s[3]))));
  }
  bool sound = !any_nan(finite);
  for (; p < pixels; ++p)
    for (int64_t c = 0; c < 4; ++c) {
      const float v = c < channels ? x[c * x_plane + p] : 0.0f;
      sound &= std::isfinite(v);
      y[4 * p + c] = c < channels ? saturated(v * inverse + zero) : 0;
    }
  return sound;
}

bool quantise_vector(const float* x, int64_t count, float inverse, float zero, uint8_t* y) {
  const Floats scale = splat_float(inverse), shift = splat_float(zero);
  Floats finite = splat_float(0.0f);
  int64_t i = 0;
  for (; i + 4 * kPixels <= count; i += 4 * kPixels) {
    Sums s[4];
    for (int64_t k = 0; k < 4; ++k)
      s[k] = bytes_of(load_floats(x + i + kPixels * k), scale, shift, finite);
    store_in_order(y + i, join(pair(s[0], s[1]), pair(s[2], s[3])));
  }
  bool sound = !any_nan(finite);
  for (; i < count; ++i) {
    sound &= std::isfinite(x[i]);
    y[i] = saturated(x[i] * inverse + zero);
  }
  return sound;
}

// Eight rows of eight dwords, `stride` apart, turned around.
#if defined(__AVX2__)
struct Eight {
  __m256 v[8];
};
BILLHOOK_INLINE Eight transposed(const Eight& a) {
  Eight b, c, d;
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b.v[i] = _mm256_unpacklo_ps(a.v[i], a.v[i + 1]);
    b.v[i + 1] = _mm256_unpackhi_ps(a.v[i], a.v[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    c.v[i] = _mm256_shuffle_ps(b.v[i], b.v[i + 2], 0x44);
    c.v[i + 1] = _mm256_shuffle_ps(b.v[i], b.v[i + 2], 0xee);
    c.v[i + 2] = _mm256_shuffle_ps(b.v[i + 1], b.v[i + 3], 0x44);
    c.v[i + 3] = _mm256_shuffle_ps(b.v[i + 1], b.v[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    d.v[i] = _mm256_permute2f128_ps(c.v[i], c.v[i + 4], 0x20);
    d.v[i + 4] = _mm256_permute2f128_ps(c.v[i], c.v[i + 4], 0x31);
  }
  return d;
}
constexpr int64_t kTurned = 8;
#else
constexpr int64_t kTurned = 1 << 30;  // none
#endif

void turn(const uint8_t* rows, int64_t stride, int64_t samples, int64_t quads, uint8_t* panel,
          int64_t width) {
  for (int64_t s = 0; s < samples; s += kTurned) {
    int64_t q = 0;
#if defined(__AVX2__)
    for (; s + 8 <= samples && q + 8 <= quads; q += 8) {
      Eight block;
      for (int i = 0; i < 8; ++i)
        block.v[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows + (s + i) * stride + 4 * q));
      block = transposed(block);
      for (int i = 0; i < 8; ++i)
        _mm256_storeu_ps(reinterpret_cast<float*>(panel + 4 * ((q + i) * width + s)), block.v[i]);
    }
#endif
    for (; q < quads; ++q)
      for (int64_t i = s; i < std::min(samples, s + kTurned); ++i)
        std::memcpy(panel + 4 * (q * width + i), rows + i * stride + 4 * q, 4);
  }
}

void turn_back(const float* sums, int64_t width, int64_t rows, int64_t samples, const float* steps,
               const float* offset, float* y, int64_t y_stride) {
  for (int64_t s = 0; s < samples; s += kTurned) {
    int64_t r = 0;
#if defined(__AVX2__)
    for (; s + 8 <= samples && r + 8 <= rows; r += 8) {
      const __m256 step = _mm256_loadu_ps(steps + s);
      Eight block;
      for (int i = 0; i < 8; ++i)
        block.v[i] = _mm256_mul_ps(_mm256_loadu_ps(sums + (r + i) * width + s), step);
      block = transposed(block);
      for (int i = 0; i < 8; ++i) {
        __m256 v = block.v[i];
        if (offset != nullptr) v = _mm256_add_ps(v, _mm256_loadu_ps(offset + r));
        _mm256_storeu_ps(y + (s + i) * y_stride + r, v);
      }
    }
#endif
    for (; r < rows; ++r)
      for (int64_t i = s; i < std::min(samples, s + kTurned); ++i) {
        const float v = sums[r * width + i] * steps[i];
        y[i * y_stride + r] = offset != nullptr ? v + offset[r] : v;
      }
  }
}

float largest(const float* x, int64_t count) {
  // Magnitudes are ordered as their bits are, NaN beyond all others.
  uint32_t most = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    most = std::max(most, bits & 0x7fffffffu);
  }
  float value;
  std::memcpy(&value, &most, sizeof value);
  return value;
}

void add_maps(const uint8_t* a, float a_scale, const uint8_t* b, float b_scale, float shift,
              int64_t count, uint8_t* y) {
  const Floats by = splat_float(a_scale), other = splat_float(b_scale), plus = splat_float(shift);
  const auto one = [&](Bytes u, Bytes v, int c) {
    Floats f = multiply(to_floats(channel(u, c)), by);
    if (b != nullptr) f = add(f, multiply(to_floats(channel(v, c)), other));
    return rounded(at_most(add(f, plus), splat_float(255.0f)));
  };
  int64_t i = 0;
  for (; i + 4 * kPixels <= count; i += 4 * kPixels) {
    const Bytes u = load(a + i), v = b != nullptr ? load(b + i) : u;
    store(y + i,
          transpose(join(pair(one(u, v, 0), one(u, v, 1)), pair(one(u, v, 2), one(u, v, 3)))));
  }
  for (; i < count; ++i) {
    float f = static_cast<float>(a[i]) * a_scale;
    if (b != nullptr) f = f + static_cast<float>(b[i]) * b_scale;
    y[i] = saturated(f + shift);
  }
}

void look_up(const uint8_t* table, const uint8_t* x, int64_t count, uint8_t* y) {
  int64_t i = 0;
#if BILLHOOK_LANES != 0
  const Table parts(table);
  constexpr int64_t kBytes = 4 * kPixels;
  for (; i + 2 * kBytes <= count; i += 2 * kBytes) {
    Bytes v[2] = {load(x + i), load(x + i + kBytes)};
    parts.look_up(v);
    store(y + i, v[0]);
    store(y + i + kBytes, v[1]);
  }
#endif
  for (; i < count; ++i) y[i] = table[x[i]];
}

void multiply_maps(const uint8_t* a, const uint8_t* b, bool by_channel, const U8Product& product,
                   int64_t count, uint8_t* y) {
  const Floats a_zero = splat_float(-product.a_zero), b_zero = splat_float(-product.b_zero);
  const Floats by = splat_float(product.scale), plus = splat_float(product.shift);
  // Products are integers of 17 bits, which floats hold exactly.
  const auto one = [&](Bytes u, Bytes v, int c) {
    const Floats exact = multiply(add(to_floats(channel(u, c)), a_zero),
                                  add(to_floats(channel(v, c)), b_zero));
    return rounded(at_most(add(multiply(exact, by), plus), splat_float(255.0f)));
  };
  const Bytes same = splat_four(reinterpret_cast<const int8_t*>(b));
  int64_t i = 0;
  for (; i + 4 * kPixels <= count; i += 4 * kPixels) {
    const Bytes u = load(a + i), v = by_channel ? same : load(b + i);
    store(y + i,
          transpose(join(pair(one(u, v, 0), one(u, v, 1)), pair(one(u, v, 2), one(u, v, 3)))));
  }
  for (; i < count; ++i) {
    const float u = static_cast<float>(a[i]) - product.a_zero;
    const float v = static_cast<float>(b[by_channel ? i % 4 : i]) - product.b_zero;
    const float exact = u * v;
    y[i] = saturated(exact * product.scale + product.shift);
  }
}

void select(const uint8_t* const* from, int64_t channels, int64_t pixels, uint8_t* y) {
  const uint8_t *a = from[0], *b = from[1], *c = from[2], *d = from[3];
  if (channels == 4) {
    for (int64_t p = 0; p < pixels; ++p) {
      const uint8_t four[4] = {a[4 * p], b[4 * p], c[4 * p], d[4 * p]};
      std::memcpy(y + 4 * p, four, 4);
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t i = 0; i < channels; ++i) y[4 * p + i] = from[i][4 * p];
}

void mean(const uint8_t* x, int64_t pixels, float scale, float shift, uint8_t* y) {
  typedef uint8_t Eight __attribute__((vector_size(32), aligned(1), may_alias));
  typedef uint16_t Wide __attribute__((vector_size(64)));
  typedef uint32_t Wider __attribute__((vector_size(128)));
  typedef uint32_t Quad __attribute__((vector_size(16), may_alias));
  int64_t sums[4] = {0, 0, 0, 0}, p = 0;
  while (p + 8 <= pixels) {
    Wide wide = {};
    // As many bytes as 16 bits can hold the sum of.
    for (int64_t last = std::min(pixels - 8, p + 8 * 256); p <= last; p += 8)
      wide += __builtin_convertvector(*reinterpret_cast<const Eight*>(x + 4 * p), Wide);
    const Wider lanes = __builtin_convertvector(wide, Wider);
    Quad quad = {};
    for (int i = 0; i < 8; ++i) quad += reinterpret_cast<const Quad*>(&lanes)[i];
    for (int c = 0; c < 4; ++c) sums[c] += quad[c];
  }
  for (; p < pixels; ++p)
    for (int c = 0; c < 4; ++c) sums[c] += x[4 * p + c];
  for (int c = 0; c < 4; ++c) y[c] = saturated(static_cast<float>(sums[c]) * scale + shift);
}

// `count` pixels, `stride` apart at x, side by side at y. Up to kSlack bytes more may be read and
// written.
BILLHOOK_INLINE void copy_pixels(const uint8_t* x, int64_t stride, int64_t count, uint8_t* y) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; i += kPixels) store(y + 4 * i, load(x + 4 * i));
    return;
  }
  if (stride == 2) {
    int64_t i = 0;
    for (; i + kPixels <= count; i += kPixels) store(y + 4 * i, even_pixels(x + 8 * i));
    for (; i < count; ++i) std::memcpy(y + 4 * i, x + 8 * i, 4);
    return;
  }
  for (int64_t i = 0; i < count; ++i) std::memcpy(y + 4 * i, x + 4 * i * stride, 4);
}

struct Span {
  int64_t first, last;
};

// Of result columns [0, width) those whose tap `offset` columns from their first lies in the map.
BILLHOOK_INLINE Span inside(int64_t offset, int64_t stride, int64_t in_width, int64_t width) {
  const int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  const int64_t last = offset >= in_width ? 0 : (in_width - 1 - offset) / stride + 1;
  return {std::min(first, width), std::max(std::min(last, width), std::min(first, width))};
}

// Calls use(pixels, columns) for each tap of result row `row` that lies in the map: `pixels` is a row
// of operand pixels for the columns.
template <typename Use>
void for_taps(const Window2d& w, const uint8_t* x, int64_t row, uint8_t* buffer, const Use& use) {
  for (int64_t ky = 0; ky < w.kernel_height; ++ky) {
    const int64_t i = row * w.stride_height + ky * w.dilation_height - w.pad_top;
    if (i < 0 || i >= w.in_height) continue;
    for (int64_t kx = 0; kx < w.kernel_width; ++kx) {
      const int64_t offset = kx * w.dilation_width - w.pad_left;
      const Span columns = inside(offset, w.stride_width, w.in_width, w.width);
      const uint8_t* from = x + 4 * (i * w.in_width + columns.first * w.stride_width + offset);
      if (w.stride_width != 1) {
        copy_pixels(from, w.stride_width, columns.last - columns.first, buffer);
        from = buffer;
      }
      use(from, columns);
    }
  }
}

void max_pool(const Window2d& w, const uint8_t* x, uint8_t* y) {
  uint8_t* buffer = byte_scratch(kRowSlot, 4 * w.width + kSlack);
  for (int64_t row = 0; row < w.height; ++row) {
    uint8_t* out = y + 4 * row * w.width;
    std::fill(out, out + 4 * w.width, uint8_t{0});
    for_taps(w, x, row, buffer, [&](const uint8_t* from, Span columns) {
      uint8_t* to = out + 4 * columns.first;
      for (int64_t b = 0; b < 4 * (columns.last - columns.first); ++b)
        to[b] = std::max(to[b], from[b]);
    });
  }
}

void average_pool(const Window2d& w, bool count_padding, const uint8_t* x, uint8_t* y) {
  uint8_t* buffer = byte_scratch(kRowSlot, 4 * w.width + kSlack);
  auto* sums = reinterpret_cast<int32_t*>(scratch(kCountSlot, 5 * w.width));
  int32_t* taps = sums + 4 * w.width;
  const int32_t window = static_cast<int32_t>(w.kernel_height * w.kernel_width);
  for (int64_t row = 0; row < w.height; ++row) {
    std::fill(sums, sums + 5 * w.width, 0);
    for_taps(w, x, row, buffer, [&](const uint8_t* from, Span columns) {
      int32_t* to = sums + 4 * columns.first;
      for (int64_t b = 0; b < 4 * (columns.last - columns.first); ++b) to[b] += from[b];
      for (int64_t p = columns.first; p < columns.last; ++p) ++taps[p];
    });
    uint8_t* out = y + 4 * row * w.width;
    for (int64_t p = 0; p < w.width; ++p) {
      const int32_t own = taps[p];
      const int32_t padding = count_padding ? (window - own) * static_cast<int32_t>(w.zero) : 0;
      const float share = 1.0f / static_cast<float>(count_padding ? window : own);
      for (int64_t c = 0; c < 4; ++c)
        out[4 * p + c] =
            saturated(static_cast<float>(sums[4 * p + c] + padding) * share);
    }
  }
}

// A run of a panel row: pixels copied from a map's plane, or padding where `from` is negative.
struct Run {
  int64_t from, to, count;
};

static_assert(sizeof(Run) == kRunBytes);

// The runs of result pixels [first, first + count) for one tap, at most three a row; their end.
Run* find_runs(const Window2d& w, int64_t ky, int64_t kx, int64_t first, int64_t count, Run* runs) {
  const int64_t offset = kx * w.dilation_width - w.pad_left;
  const Span valid = inside(offset, w.stride_width, w.in_width, w.width);
  const auto push = [&](int64_t from, int64_t to, int64_t n) {
    if (n > 0) *runs++ = {from, to, n};
  };
  for (int64_t p = first; p < first + count;) {
    const int64_t row = p / w.width, begin = p % w.width;
    const int64_t end = std::min(w.width, begin + first + count - p);
    const int64_t i = row * w.stride_height + ky * w.dilation_height - w.pad_top;
    const bool none = i < 0 || i >= w.in_height;
    const int64_t from = std::clamp(none ? end : valid.first, begin, end);
    const int64_t to = std::clamp(none ? end : valid.last, from, end);
    const int64_t at = p - first - begin;  // of column 0 in the panel's row
    push(-1, at + begin, from - begin);
    push(i * w.in_width + from * w.stride_width + offset, at + from, to - from);
    push(-1, at + to, end - to);
    p += end - begin;
  }
  return runs;
}

void gather(const Window2d& w, const uint8_t* x, int64_t x_plane, int64_t quads, int64_t first,
            int64_t count, uint8_t* panel, int64_t width) {
  auto* runs = reinterpret_cast<Run*>(byte_scratch(kRunSlot, run_bytes(w.width, count)));
  const Bytes padding = splat_bytes(static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(w.zero)));
  for (int64_t ky = 0; ky < w.kernel_height; ++ky)
    for (int64_t kx = 0; kx < w.kernel_width; ++kx) {
      const Run* last = find_runs(w, ky, kx, first, count, runs);
      for (int64_t q = 0; q < quads; ++q, panel += 4 * width) {
        const uint8_t* plane = x + q * x_plane;
        // In ascending order: what one run overruns, the next or the next row writes anew.
        for (const Run* run = runs; run != last; ++run) {
          if (run->from >= 0) {
            copy_pixels(plane + 4 * run->from, w.stride_width, run->count, panel + 4 * run->to);
          } else {
            for (int64_t i = 0; i < run->count; i += kPixels)
              store(panel + 4 * (run->to + i), padding);
          }
        }
      }
    }
}

}  // namespace

extern const U8Map u8_map;
const U8Map u8_map = {quantise, quantise_vector, turn,         turn_back, largest,
                      add_maps, look_up,         multiply_maps, select,   mean,
                      max_pool, average_pool,    gather};

}  // namespace billhook::BILLHOOK_NAMESPACE
