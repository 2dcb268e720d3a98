// The row kernel of spmm.h, for the instruction set of the file that includes it.
#include "activate.h"
#include "spmm.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

// How many pixels of a tile its last vector holds, and in which lanes.
struct Tail {
  int64_t count;
  Mask lanes;
  explicit Tail(int64_t pixels) : count(pixels), lanes(lanes_between(0, pixels)) {}
};

// Vector i of the N that hold a tile's pixels. Reads may be rounded up to eight floats, not to more.
template <int N>
BILLHOOK_INLINE Vec load_pixels(const float* p, int i, const Tail& tail) {
  if (kLanes == 8 || i + 1 < N) return load(p + kLanes * i);
  return load_where(p + kLanes * i, tail.lanes);
}

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

// Adds one row's products to acc. Several chains hide the latency of FMA where a tile has few
// vectors.
template <int N, typename Operand>
BILLHOOK_INLINE void accumulate_row(const SparseRows& w, int64_t position, const Operand& x,
                                    const Tail& tail, Vec* acc) {
  constexpr int kChains = N == 1 && kLanes == 16 ? 8 : N <= 2 ? 4 : N == 3 ? 3 : N <= 6 ? 2 : 1;
  Vec chain[kChains][N];
  for (int c = 0; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[c][i] = c == 0 ? acc[i] : splat(0.0f);
  int64_t j = w.row_ptr[position];
  const int64_t end = w.row_ptr[position + 1];
  for (; j + kChains <= end; j += kChains) {
    for (int c = 0; c < kChains; ++c) {
      const float* p = x[j + c];
      const Vec value = splat(w.value[j + c]);
      for (int i = 0; i < N; ++i) chain[c][i] = fma(value, load_pixels<N>(p, i, tail), chain[c][i]);
    }
  }
  for (; j < end; ++j) {
    const float* p = x[j];
    const Vec value = splat(w.value[j]);
    for (int i = 0; i < N; ++i) chain[0][i] = fma(value, load_pixels<N>(p, i, tail), chain[0][i]);
  }
  for (int c = 1; c < kChains; ++c)
    for (int i = 0; i < N; ++i) chain[0][i] += chain[c][i];
  for (int i = 0; i < N; ++i) acc[i] = chain[0][i];
}

template <int N>
BILLHOOK_INLINE void add_row(const Tile& tile, int64_t row, const Tail& tail, Vec* acc) {
  const float* addend = tile.addend + row * tile.addend_stride;
  for (int i = 0; i < N; ++i) {
    const bool whole = i + 1 < N || tail.count == kLanes;
    acc[i] += whole ? load(addend + kLanes * i) : load_first(addend + kLanes * i, tail.count);
  }
}

// The bias and the addend of a row.
template <int N>
BILLHOOK_INLINE void begin_row(const SparseRows& w, int64_t row, const Tile& tile, const Tail& tail,
                               Vec* acc) {
  const Vec bias = splat(w.bias != nullptr ? w.bias[row] : 0.0f);
  for (int i = 0; i < N; ++i) acc[i] = bias;
  if (tile.addend != nullptr) add_row<N>(tile, row, tail, acc);
}

template <int N>
BILLHOOK_INLINE void finish_row(const SparseRows& w, int64_t row, const Tile& tile, const Tail& tail,
                                Vec* acc) {
  activate<N>(w.activation, acc);
  if (tile.keep != nullptr) {
    const auto* keep = reinterpret_cast<const float*>(tile.keep);
    for (int i = 0; i < N; ++i)
      acc[i] = (Vec)((VecInt)acc[i] & (VecInt)load_pixels<N>(keep, i, tail));
  }
  float* y = tile.y + row * tile.y_stride;
  for (int i = 0; i + 1 < N; ++i) store(y + kLanes * i, acc[i]);
  store_up_to(y + kLanes * (N - 1), acc[N - 1], tail.count);
}

template <int N, typename Operand>
void rows_of_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  const Tail tail(tile.n - kLanes * (N - 1));
  const Operand x(w, tile);
  for (int64_t position = first_row; position < last_row; ++position) {
    const int64_t row = w.row != nullptr ? w.row[position] : position;
    Vec acc[N];
    begin_row<N>(w, row, tile, tail, acc);
    accumulate_row<N>(w, position, x, tail, acc);
    finish_row<N>(w, row, tile, tail, acc);
  }
}

// Rows of a group whose sums the registers hold at once, beside the operand of three vectors.
constexpr int kRegisterRows = kLanes == 16 ? 8 : 4;
constexpr int kRegisterVectors = 3;

// The same for groups: a vector of the operand is loaded once for several rows.
template <int N, typename Operand>
void groups_of_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  const Tail tail(tile.n - kLanes * (N - 1));
  const Operand operand(w, tile);
  for (int64_t row = first_row; row < last_row; row += kRegisterRows) {
    Vec acc[kRegisterRows][N];
#pragma GCC unroll 8
    for (int r = 0; r < kRegisterRows; ++r) begin_row<N>(w, row + r, tile, tail, acc[r]);
    const float* value = w.value + row % kGroup;
    const int64_t end = w.row_ptr[row / kGroup + 1];
    for (int64_t j = w.row_ptr[row / kGroup]; j < end; ++j) {
      Vec x[N];
      for (int i = 0; i < N; ++i) x[i] = load_pixels<N>(operand[j], i, tail);
#pragma GCC unroll 8
      for (int r = 0; r < kRegisterRows; ++r)
        for (int i = 0; i < N; ++i)
          acc[r][i] = fma(splat(value[j * kGroup + r]), x[i], acc[r][i]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRegisterRows; ++r) finish_row<N>(w, row + r, tile, tail, acc[r]);
  }
}

template <typename Operand>
void tile_of(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  constexpr SpmmTile rows[] = {rows_of_tile<1, Operand>, rows_of_tile<2, Operand>,
                               rows_of_tile<3, Operand>, rows_of_tile<4, Operand>,
                               rows_of_tile<5, Operand>, rows_of_tile<6, Operand>,
                               rows_of_tile<7, Operand>, rows_of_tile<8, Operand>};
  constexpr SpmmTile groups[] = {groups_of_tile<1, Operand>, groups_of_tile<2, Operand>,
                                 groups_of_tile<3, Operand>};
  const SpmmTile* by_vectors = w.group == 1 ? rows : groups;
  const int64_t widest = kLanes * (w.group == 1 ? 8 : kRegisterVectors);
  for (int64_t p = 0; p < tile.n; p += widest) {
    Tile part = tile;
    part.x += p;
    if (tile.addend != nullptr) part.addend += p;
    if (tile.keep != nullptr) part.keep += p;
    part.y += p;
    part.n = tile.n - p < widest ? tile.n - p : widest;
    by_vectors[(part.n + kLanes - 1) / kLanes - 1](w, first_row, last_row, part);
  }
}

}  // namespace

void spmm_tile(const SparseRows& w, int64_t first_row, int64_t last_row, const Tile& tile) {
  (w.column != nullptr ? tile_of<Panel> : tile_of<Planes>)(w, first_row, last_row, tile);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
