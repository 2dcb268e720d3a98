#include "f32_spmm.h"

#include <algorithm>

#include "abi.h"
#include "isa.h"
#include "f32_panel.h"
#include "parallel.h"

namespace billhook {

SpmmTile spmm_tile_for(int64_t isa) {
  return BILLHOOK_FP32(SpmmTile, spmm_tile, isa);
}

int64_t split_rows(const SparseRows& rows, int64_t part, int64_t parts) {
  if (part >= parts) return rows.rows;
  const int64_t groups = rows.rows / rows.group;
  const int64_t target = static_cast<int64_t>(rows.row_ptr[groups]) * part / parts;
  const int64_t row =
      (std::lower_bound(rows.row_ptr, rows.row_ptr + groups, target) - rows.row_ptr) * rows.group;
  return rows.column == nullptr ? row : row / kChunk * kChunk;
}

void spmm_blocks(Blocks blocks, int64_t first, int64_t last, const Tile& tile, SpmmTile kernel) {
  if (blocks.count == 1) return kernel(*blocks.first, first, last, tile);
  const int64_t width = (tile.n + 7) / 8 * 8, stride = (tile.n + 15) / 16 * 16;
  float* sums = scratch(3, kChunk * stride);
  for (int64_t r = first; r < last; r += kChunk) {
    float* rows = sums - r * stride;  // row r of the matrix is the first one there
    Tile begin = tile, middle = tile, end = tile;
    begin.keep = middle.keep = nullptr;
    begin.y = middle.y = rows;
    begin.y_stride = middle.y_stride = stride;
    middle.addend = end.addend = rows;
    middle.addend_stride = end.addend_stride = stride;
    middle.n = width;
    if (tile.addend == nullptr) begin.n = width;
    for (int64_t b = 0; b < blocks.count; ++b)
      kernel(blocks.first[b], r, std::min(r + kChunk, last),
             b == 0 ? begin : b + 1 < blocks.count ? middle : end);
  }
}

namespace {

struct Operand {
  const float* panel;
  int64_t width;
  int64_t count;
};

struct Span {
  int64_t first, last;
};

// Rows of one tile, transposed back so that each row of y is one sample.
void linear_tile(Blocks blocks, Operand x, Span rows, float* y, int64_t y_stride, SpmmTile tile) {
  float* sums = scratch(1, kChunk * x.width);
  for (int64_t r = rows.first; r < rows.last; r += kChunk) {
    const int64_t end = std::min(r + kChunk, rows.last);
    const Tile t{x.panel, x.width, nullptr, nullptr, sums - r * x.width, 0, x.width, x.count};
    spmm_blocks(blocks, r, end, t, tile);
    transpose(sums, x.width, end - r, x.count, y + r, y_stride);
  }
}

}  // namespace

}  // namespace billhook

// y[s, r] = act(bias[r] + sum_j value[j] * x[s, column[j]]) for `samples` rows of x. The matrix
// comes in blocks of columns, summed in order: the first has the bias, the last the activation.
// width is a multiple of 8 up to 64.
BILLHOOK_API int64_t billhook_linear(const billhook::Blocks* matrix, const float* x, int64_t x_stride,
                                  int64_t columns, float* y, int64_t y_stride, int64_t samples,
                                  int64_t width, int64_t threads, int64_t isa) try {
  using namespace billhook;
  const SpmmTile tile = spmm_tile_for(isa);
  const int64_t tiles = (samples + width - 1) / width;
  const int64_t parts = tiles >= 4 * threads ? 1 : 2 * threads;
  for (int64_t first = 0; first < tiles; first += threads) {
    // A few panels at a time, filled once and shared by all threads.
    const int64_t batch = std::min(threads, tiles - first);
    float* panels = scratch(0, batch * columns * width);
    parallel_for(batch, threads, [&](int64_t i) {
      const int64_t start = (first + i) * width;
      const int64_t count = std::min(width, samples - start);
      float* panel = panels + i * columns * width;
      if (count < width) std::fill(panel, panel + columns * width, 0.0f);
      transpose(x + start * x_stride, x_stride, count, columns, panel, width);
    });
    parallel_for(batch * parts, threads, [&](int64_t task) {
      const int64_t i = task / parts, part = task % parts, start = (first + i) * width;
      const SparseRows& first_block = *matrix->first;
      const Span rows{split_rows(first_block, part, parts),
                      split_rows(first_block, part + 1, parts)};
      const Operand panel{panels + i * columns * width, width, std::min(width, samples - start)};
      linear_tile(*matrix, panel, rows, y + start * y_stride, y_stride, tile);
    });
  }
  return 0;
} catch (...) {
  return billhook::failure();
}
