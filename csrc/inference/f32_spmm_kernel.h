// The row kernel of f32_spmm.h, for the instruction set of the file that includes it.
#include "activate.h"
#include "f32_spmm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// The pixels of a tile: kVectors vectors, of which the last holds `last` pixels. Reads may be rounded
// up to eight floats, not to more: with kHalf that is less than the last vector.
template <int kVectors, bool kHalf>
struct Pixels {
  static constexpr int N = kVectors;
  int64_t last;
  Mask lanes;
  explicit Pixels(int64_t n) : last(n - kLanes * (N - 1)), lanes(lanes_between(0, last)) {}

  // Vector i of those at p. A masked load takes twice the room of a plain one.
  Vec load_from(const float* p, int i) const {
    if (!kHalf || i + 1 < N) return load(p + kLanes * i);
    return load_where(p + kLanes * i, lanes);
  }
};

// Where nonzero j of a tile's rows finds its operand.
struct Panel {
  const float* x;
  int64_t width;
  const uint16_t* column;
  Panel(const SparseRows& w, const Tile& tile)
      : x(tile.x + w.first_column * tile.x_width), width(tile.x_width), column(w.column) {}
  const float* operator[](int64_t j) const { return x + column[j] * width; }
};

struct Planes {
  const float* x;
  const int32_t* offset;
  Planes(const SparseRows& w, const Tile& tile) : x(tile.x), offset(w.offset) {}
  const float* operator[](int64_t j) const { return x + offset[j]; }
};

template <typename P>
BILLHOOK_INLINE void accumulate(Vec value, const float* x, const P& pixels, Vec* acc) {
  for (int i = 0; i < P::N; ++i) acc[i] = fma(value, pixels.load_from(x, i), acc[i]);
}

// Adds one row's products to acc. Several chains hide the latency of FMA where a tile has few
// vectors. Four values are loaded at once: the loads are what limits this kernel.
template <typename P, typename Operand>
BILLHOOK_INLINE void accumulate_row(const SparseRows& w, int64_t position, const Operand& x,
                                    const P& pixels, Vec* acc) {
  constexpr int N = P::N;
  constexpr int kChains = N == 1 && kLanes == 16 ? 8 : N <= 3 ? 4 : N <= 6 ? 2 : 1;
  constexpr int kStep = kChains < 4 ? 4 : kChains;
  Vec chain[kChains][N];
  for (int c = 0; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[c][i] = c == 0 ? acc[i] : splat(0.0f);
  int64_t j = w.row_ptr[position];
  const int64_t end = w.row_ptr[position + 1];
  for (; j + kStep <= end; j += kStep) {
#pragma GCC unroll 2
    for (int c = 0; c < kStep; c += 4) {
      const Vec four = load_four(w.value + j + c);
      accumulate(splat_of<0>(four), x[j + c], pixels, chain[c % kChains]);
      accumulate(splat_of<1>(four), x[j + c + 1], pixels, chain[(c + 1) % kChains]);
      accumulate(splat_of<2>(four), x[j + c + 2], pixels, chain[(c + 2) % kChains]);
      accumulate(splat_of<3>(four), x[j + c + 3], pixels, chain[(c + 3) % kChains]);
    }
  }
  for (; j < end; ++j) accumulate(splat(w.value[j]), x[j], pixels, chain[0]);
  for (int c = 1; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[0][i] += chain[c][i];
  for (int i = 0; i < N; ++i) acc[i] = chain[0][i];
}

template <typename P>
BILLHOOK_INLINE void add_row(const Tile& tile, int64_t row, const P& pixels, Vec* acc) {
  const float* addend = tile.addend + row * tile.addend_stride;
  for (int i = 0; i < P::N; ++i) {
    const bool whole = i + 1 < P::N || pixels.last == kLanes;
    acc[i] += whole ? load(addend + kLanes * i) : load_first(addend + kLanes * i, pixels.last);
  }
}

// The bias and the addend of a row.
template <typename P>
BILLHOOK_INLINE void begin_row(const SparseRows& w, int64_t row, const Tile& tile, const P& pixels,
                               Vec* acc) {
  const Vec bias = splat(w.bias != nullptr ? w.bias[row] : 0.0f);
  for (int i = 0; i < P::N; ++i) acc[i] = bias;
  if (tile.addend != nullptr) add_row(tile, row, pixels, acc);
}

template <typename P>
BILLHOOK_INLINE void finish_row(const SparseRows& w, int64_t row, const Tile& tile,
                                const P& pixels, Vec* acc) {
  constexpr int N = P::N;
  activate<N>(w.activation, acc);
  if (tile.keep != nullptr) {
    const auto* keep = reinterpret_cast<const float*>(tile.keep);
    for (int i = 0; i < N; ++i)
      acc[i] = (Vec)((VecInt)acc[i] & (VecInt)pixels.load_from(keep, i));
  }
  float* y = tile.y + row * tile.y_stride;
  for (int i = 0; i + 1 < N; ++i) store(y + kLanes * i, acc[i]);
  store_up_to(y + kLanes * (N - 1), acc[N - 1], pixels.last);
}

template <typename P, typename Operand>
void rows_of_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  const P pixels(tile.n);
  const Operand x(w, tile);
  for (int64_t position = first_row; position < last_row; ++position) {
    const int64_t row = w.row != nullptr ? w.row[position] : position;
    Vec acc[P::N];
    begin_row(w, row, tile, pixels, acc);
    accumulate_row(w, position, x, pixels, acc);
    finish_row(w, row, tile, pixels, acc);
  }
}

// Rows of a group whose sums the registers hold at once, beside the operand of three vectors.
constexpr int kRegisterRows = kLanes == 16 ? 8 : 4;
constexpr int kRegisterVectors = 3;

// The same for groups: a vector of the operand is loaded once for several rows.
template <typename P, typename Operand>
void groups_of_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  constexpr int N = P::N;
  const P pixels(tile.n);
  const Operand operand(w, tile);
  for (int64_t row = first_row; row < last_row; row += kRegisterRows) {
    Vec acc[kRegisterRows][N];
#pragma GCC unroll 8
    for (int r = 0; r < kRegisterRows; ++r) begin_row(w, row + r, tile, pixels, acc[r]);
    const float* value = w.value + row % kGroup;
    const int64_t end = w.row_ptr[row / kGroup + 1];
    for (int64_t j = w.row_ptr[row / kGroup]; j < end; ++j) {
      Vec x[N];
      for (int i = 0; i < N; ++i) x[i] = pixels.load_from(operand[j], i);
#pragma GCC unroll 8
      for (int r = 0; r < kRegisterRows; ++r)
        for (int i = 0; i < N; ++i)
          acc[r][i] = fma(splat(value[j * kGroup + r]), x[i], acc[r][i]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRegisterRows; ++r) finish_row(w, row + r, tile, pixels, acc[r]);
  }
}

template <bool kHalf, typename Operand>
SpmmTile kernel_for(const SparseRows& w, int64_t vectors) {
  constexpr SpmmTile rows[] = {
      rows_of_tile<Pixels<1, kHalf>, Operand>, rows_of_tile<Pixels<2, kHalf>, Operand>,
      rows_of_tile<Pixels<3, kHalf>, Operand>, rows_of_tile<Pixels<4, kHalf>, Operand>,
      rows_of_tile<Pixels<5, kHalf>, Operand>, rows_of_tile<Pixels<6, kHalf>, Operand>,
      rows_of_tile<Pixels<7, kHalf>, Operand>, rows_of_tile<Pixels<8, kHalf>, Operand>};
  constexpr SpmmTile groups[] = {groups_of_tile<Pixels<1, kHalf>, Operand>,
                                 groups_of_tile<Pixels<2, kHalf>, Operand>,
                                 groups_of_tile<Pixels<3, kHalf>, Operand>};
  return (w.group == 1 ? rows : groups)[vectors - 1];
}

template <typename Operand>
void tile_of(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  const int64_t widest = kLanes * (w.group == 1 ? 8 : kRegisterVectors);
  for (int64_t p = 0; p < tile.n; p += widest) {
    Tile part = tile;
    part.x += p;
    if (tile.addend != nullptr) part.addend += p;
    if (tile.keep != nullptr) part.keep += p;
    part.y += p;
    part.n = tile.n - p < widest ? tile.n - p : widest;
    const int64_t vectors = (part.n + kLanes - 1) / kLanes;
    constexpr bool kHalves = kLanes == 16;
    const bool half = kHalves && (part.n + 7) / 8 % 2 == 1;
    const SpmmTile kernel =
        half ? kernel_for<kHalves, Operand>(w, vectors) : kernel_for<false, Operand>(w, vectors);
    kernel(w, first_row, last_row, part);
  }
}

}  // namespace

void spmm_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  (w.column != nullptr ? tile_of<Panel> : tile_of<Planes>)(w, first_row, last_row, tile);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
