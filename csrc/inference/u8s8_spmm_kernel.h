// The kernel of u8s8_spmm.h, for the instruction set of the file that includes it.
#include "u8_vec.h"
#include "u8s8_spmm.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// The sums of one row for N vectors of pixels. Several chains hide the latency of the products where
// a tile has few vectors.
template <int N>
BILLHOOK_INLINE void row_sums(const BlockRows& w, int64_t row, const QuadTile& tile,
                              const uint8_t* x, Sums* sums) {
  constexpr int kChains = N == 1 ? 8 : N <= 3 ? 4 : N <= 5 ? 2 : 1;
  Sums chain[kChains][N];
  for (int i = 0; i < N; ++i) chain[0][i] = splat(w.bias[row]);
  for (int c = 1; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[c][i] = splat(0);
  int64_t j = w.ptr[row];
  const int64_t end = w.ptr[row + 1];
  for (; j + kChains <= end; j += kChains) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      const uint8_t* p = x + w.column[j + c] * tile.x_plane;
      const Weights four = weights_at(w.value, j + c);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) dot(chain[c][i], operand(load(p + 4 * kPixels * i)), four);
    }
  }
  for (; j < end; ++j) {
    const uint8_t* p = x + w.column[j] * tile.x_plane;
    const Weights four = weights_at(w.value, j);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) dot(chain[0][i], operand(load(p + 4 * kPixels * i)), four);
  }
  for (int c = 1; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[0][i] = add(chain[0][i], chain[c][i]);
  for (int i = 0; i < N; ++i) sums[i] = chain[0][i];
}

// Row r of quad q as integers yet to be saturated; `at` is the pixel of the vector.
BILLHOOK_INLINE Sums finished(Sums sums, const BlockRows& w, int64_t q, int r,
                              const QuadTile& tile, int64_t at) {
  Floats v = multiply(to_floats(sums), splat_float(w.scale[4 * q + r]));
  if (tile.addend != nullptr) {
    const Bytes addend = load(tile.addend + q * tile.addend_plane + 4 * at);
    v = add(v, multiply(to_floats(channel(addend, r)), splat_float(tile.addend_scale)));
  }
  return rounded(v);
}

BILLHOOK_INLINE void store_row(Sums sums, const BlockRows& w, int64_t row, const QuadTile& tile,
                               int64_t at) {
  if (row >= w.rows) return;
  store_floats(tile.floats + row * tile.y_plane + at,
               multiply(to_floats(sums), splat_float(w.scale[row])));
}

BILLHOOK_INLINE void store_quad(Pair s01, Pair s23, int64_t q, const QuadTile& tile, int64_t at) {
  store(tile.bytes + q * tile.y_plane + 4 * at, transpose(join(s01, s23)));
}

// Rows of 1x4 blocks, four of them (one quad of the result) together. Each is finished before the
// next is summed, so that the registers hold one row's sums and the halves of a quad.
template <int N>
void single_rows(const BlockRows& w, int64_t first, int64_t last, const QuadTile& tile,
                 int64_t at) {
  const uint8_t* x = tile.x + 4 * at;
  for (int64_t q = first / 4; 4 * q < last && 4 * q < w.rows; ++q) {
    Sums even[N];
    Pair s01[N];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      Sums sums[N];
      row_sums<N>(w, 4 * q + r, tile, x, sums);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const int64_t p = at + kPixels * i;
        if (tile.bytes == nullptr) {
          store_row(sums[i], w, 4 * q + r, tile, p);
          continue;
        }
        const Sums done = finished(sums[i], w, q, r, tile, p);
        if (r % 2 == 0) even[i] = done;
        else if (r == 1) s01[i] = pair(even[i], done);
        else store_quad(s01[i], pair(even[i], done), q, tile, p);
      }
    }
  }
}

// Groups of R rows: a vector of the operand is loaded once for all of them.
template <int R, int N>
void grouped_rows(const BlockRows& w, int64_t first, int64_t last, const QuadTile& tile,
                  int64_t at) {
  const uint8_t* x = tile.x + 4 * at;
  for (int64_t g = first; g < last; ++g) {
    Sums sums[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < N; ++i) sums[r][i] = splat(w.bias[g * R + r]);
    const int64_t end = w.ptr[g + 1];
    for (int64_t j = w.ptr[g]; j < end; ++j) {
      const uint8_t* p = x + w.column[j] * tile.x_plane;
      Operand pixels[N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) pixels[i] = operand(load(p + 4 * kPixels * i));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Weights four = weights_at(w.value, j * R + r);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) dot(sums[r][i], pixels[i], four);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < R / 4; ++k) {
      const int64_t q = g * (R / 4) + k;
      if (4 * q >= w.rows) break;
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const int64_t p = at + kPixels * i;
        if (tile.bytes == nullptr) {
          for (int r = 0; r < 4; ++r) store_row(sums[4 * k + r][i], w, 4 * q + r, tile, p);
          continue;
        }
        store_quad(pair(finished(sums[4 * k][i], w, q, 0, tile, p),
                        finished(sums[4 * k + 1][i], w, q, 1, tile, p)),
                   pair(finished(sums[4 * k + 2][i], w, q, 2, tile, p),
                        finished(sums[4 * k + 3][i], w, q, 3, tile, p)),
                   q, tile, p);
      }
    }
  }
}

using TileKernel = void (*)(const BlockRows&, int64_t, int64_t, const QuadTile&, int64_t);

struct Kernels {
  int64_t widest;  // vectors
  TileKernel of[8];
};

// As many vectors as the registers hold.
const Kernels& kernels_for(int64_t group) {
#define BILLHOOK_SINGLE(N) single_rows<N>
#define BILLHOOK_GROUPED(R, N) grouped_rows<R, N>
#if BILLHOOK_LANES > 0
  static constexpr Kernels single = {
      8,
      {BILLHOOK_SINGLE(1), BILLHOOK_SINGLE(2), BILLHOOK_SINGLE(3), BILLHOOK_SINGLE(4),
       BILLHOOK_SINGLE(5), BILLHOOK_SINGLE(6), BILLHOOK_SINGLE(7), BILLHOOK_SINGLE(8)}};
#else
  static constexpr Kernels single = {1, {BILLHOOK_SINGLE(1)}};
#endif
#if BILLHOOK_LANES == 4 || BILLHOOK_LANES == 1  // 32 registers
  static constexpr Kernels four = {
      6,
      {BILLHOOK_GROUPED(4, 1), BILLHOOK_GROUPED(4, 2), BILLHOOK_GROUPED(4, 3),
       BILLHOOK_GROUPED(4, 4), BILLHOOK_GROUPED(4, 5), BILLHOOK_GROUPED(4, 6)}};
  static constexpr Kernels eight = {
      3, {BILLHOOK_GROUPED(8, 1), BILLHOOK_GROUPED(8, 2), BILLHOOK_GROUPED(8, 3)}};
#else
#if BILLHOOK_LANES == 2
  static constexpr Kernels four = {2, {BILLHOOK_GROUPED(4, 1), BILLHOOK_GROUPED(4, 2)}};
#else
  static constexpr Kernels four = {1, {BILLHOOK_GROUPED(4, 1)}};
#endif
  static constexpr Kernels eight = {1, {BILLHOOK_GROUPED(8, 1)}};
#endif
  static constexpr Kernels sixteen = {1, {BILLHOOK_GROUPED(16, 1)}};
#undef BILLHOOK_SINGLE
#undef BILLHOOK_GROUPED
  return group == 1 ? single : group == 4 ? four : group == 8 ? eight : sixteen;
}

}  // namespace

void u8s8_spmm(const BlockRows& w, int64_t first, int64_t last, const QuadTile& tile) {
  const Kernels& kernels = kernels_for(w.group);
  const int64_t vectors = tile.lines * kLine / kPixels;
  const int64_t tiles = (vectors + kernels.widest - 1) / kernels.widest;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = vectors * t / tiles, end = vectors * (t + 1) / tiles;
    kernels.of[end - begin - 1](w, first, last, tile, begin * kPixels);
  }
}


}  // namespace billhook::BILLHOOK_NAMESPACE
