// Unstructured zeros: sixteen rows per vector, sixteen pixels at a time. The operand is transposed
// once for all rows: [columns / 64][pixels][64], so that a vector is a window of one pixel.
#if defined(__AVX512VBMI__)
#define BILLHOOK_NAMESPACE avx512vbmi
#include "u8_map.h"
#include "u8_vec.h"
#include "u8s8_spmm.h"
#include "u8s8_spmv.h"

namespace billhook::avx512vbmi {

namespace {

// A 4x4 transpose of 128-bit lanes: vector i of the result has lane i of a, b, c and d.
struct Four {
  Bytes v[4];
};
BILLHOOK_INLINE Four transpose_lanes(Bytes a, Bytes b, Bytes c, Bytes d) {
  const Bytes ab0 = _mm512_shuffle_i32x4(a, b, 0x44), ab1 = _mm512_shuffle_i32x4(a, b, 0xee);
  const Bytes cd0 = _mm512_shuffle_i32x4(c, d, 0x44), cd1 = _mm512_shuffle_i32x4(c, d, 0xee);
  return {{_mm512_shuffle_i32x4(ab0, cd0, 0x88), _mm512_shuffle_i32x4(ab0, cd0, 0xdd),
           _mm512_shuffle_i32x4(ab1, cd1, 0x88), _mm512_shuffle_i32x4(ab1, cd1, 0xdd)}};
}

// Four quads, sixteen pixels each, as lanes: lane l of vector p has pixel 4 * l + p of all four.
BILLHOOK_INLINE Four pixels_of(Bytes q0, Bytes q1, Bytes q2, Bytes q3) {
  const Bytes a = _mm512_unpacklo_epi32(q0, q1), b = _mm512_unpackhi_epi32(q0, q1);
  const Bytes c = _mm512_unpacklo_epi32(q2, q3), d = _mm512_unpackhi_epi32(q2, q3);
  return {{_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
           _mm512_unpackhi_epi64(b, d)}};
}

// One window (sixteen quads) of sixteen pixels: 64 bytes per pixel.
void turn_window(const uint8_t* x, int64_t plane, int64_t quads, uint8_t* y) {
  Four part[4];
  for (int64_t k = 0; k < 4; ++k) {
    Bytes q[4];
    for (int64_t i = 0; i < 4; ++i)
      q[i] = 4 * k + i < quads ? load(x + (4 * k + i) * plane) : splat(0);
    part[k] = pixels_of(q[0], q[1], q[2], q[3]);
  }
  for (int p = 0; p < 4; ++p) {
    const Four four = transpose_lanes(part[0].v[p], part[1].v[p], part[2].v[p], part[3].v[p]);
    for (int l = 0; l < 4; ++l) store(y + 64 * (4 * l + p), four.v[l]);
  }
}

BILLHOOK_INLINE Bytes finished(Sums a, Sums b, Sums c, Sums d, Floats scale, Bytes addend,
                               const QuadTile& tile) {
  if (tile.addend == nullptr)
    return join(pair(quantised(a, scale), quantised(b, scale)),
                pair(quantised(c, scale), quantised(d, scale)));
  const Floats by = splat_float(tile.addend_scale);
  const auto one = [&](Sums s, int pixel) {
    // Lane l has the four channels of quad l of this pixel.
    const __m128i select = _mm_setr_epi8(
        static_cast<char>(4 * pixel), -1, -1, -1, static_cast<char>(4 * pixel + 1), -1, -1, -1,
        static_cast<char>(4 * pixel + 2), -1, -1, -1, static_cast<char>(4 * pixel + 3), -1, -1, -1);
    const Sums other = _mm512_shuffle_epi8(addend, _mm512_broadcast_i32x4(select));
    return rounded(add(multiply(to_floats(s), scale), multiply(to_floats(other), by)));
  };
  return join(pair(one(a, 0), one(b, 1)), pair(one(c, 2), one(d, 3)));
}

// Sixteen rows (four quads) of sixteen pixels, which start at pixel `at` of the tile.
void store_pack(const WindowRows& w, int64_t pack, const QuadTile& tile, int64_t at,
                const Sums* sums) {
  const Floats scale = load_floats(w.scale + 16 * pack);
  if (tile.bytes == nullptr) {
    for (int64_t p = 0; p < 16; ++p) {
      alignas(64) float out[16];
      store_floats(out, multiply(to_floats(sums[p]), scale));
      for (int64_t r = 0; r < 16 && 16 * pack + r < w.rows; ++r)
        tile.floats[(16 * pack + r) * tile.y_plane + at + p] = out[r];
    }
    return;
  }
  const int64_t quads = (w.rows + 3) / 4 - 4 * pack < 4 ? (w.rows + 3) / 4 - 4 * pack : 4;
  Four addends{{splat(0), splat(0), splat(0), splat(0)}};
  if (tile.addend != nullptr) {
    for (int64_t q = 0; q < quads; ++q)
      addends.v[q] = load(tile.addend + (4 * pack + q) * tile.addend_plane + 4 * at);
    addends = transpose_lanes(addends.v[0], addends.v[1], addends.v[2], addends.v[3]);
  }
  Bytes v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    v[i] = finished(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3], scale,
                    addends.v[i], tile);
  const Four out = transpose_lanes(v[0], v[1], v[2], v[3]);
  for (int64_t q = 0; q < quads; ++q)
    store(tile.bytes + (4 * pack + q) * tile.y_plane + 4 * at, out.v[q]);
}

}  // namespace

void u8s8_spmm(const WindowRows& w, int64_t first, int64_t last, const QuadTile& tile) {
  uint8_t* windows = byte_scratch(kRowSlot, turned_bytes(w.windows));
  const int64_t quads = (w.columns + 3) / 4;
  for (int64_t line = 0; line < tile.lines; ++line) {
    const int64_t at = 16 * line;
    for (int64_t b = 0; b < w.windows; ++b)
      turn_window(tile.x + 16 * b * tile.x_plane + 4 * at, tile.x_plane, quads - 16 * b,
                  windows + 1024 * b);
    for (int64_t pack = first; pack < last; ++pack) {
      Sums sums[16];
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) sums[p] = load(w.bias + 16 * pack);
      const int32_t* ptr = w.ptr + pack * w.windows;
      for (int64_t b = 0; b < w.windows; ++b) {
        const uint8_t* window = windows + 1024 * b;
        for (int64_t s = ptr[b]; s < ptr[b + 1]; ++s) {
          const Bytes index = load(w.index + 64 * s), value = load(w.value + 64 * s);
#pragma GCC unroll 16
          for (int p = 0; p < 16; ++p)
            dot(sums[p], _mm512_permutexvar_epi8(index, load(window + 64 * p)), value);
        }
      }
      store_pack(w, pack, tile, at, sums);
    }
  }
}

}  // namespace billhook::avx512vbmi

#endif
