// Sparse matrix times a panel whose columns (pixels of a plane, samples of a batch) are contiguous.
//
// One row kernel carries 1x1 and k x k convolutions, dense stems, depthwise convolutions and
// batched linear layers: they differ only in the offsets their nonzeros have into the operand.
#pragma once
#include <cstdint>

namespace billhook {

enum Activation : int64_t { kNone = 0, kRelu = 1, kRelu6 = 2 };

// CSR; a nonzero's column is replaced by the offset, in floats, of its first operand element.
// Rows that share their columns (8x1 blocks, dense filters) come in groups of eight: an offset then
// has eight values, one a row. Mirrored by kernels.py.
struct SparseRows {
  int64_t rows;  // a multiple of `group`
  int64_t activation;
  int64_t group;           // rows of a group: 1 or kGroup
  const int32_t* row_ptr;  // rows / group + 1
  const int32_t* offset;   // may be negative: a tap left of or above the pixel
  const float* value;      // group an offset
  const float* bias;  // rows, or null
};

constexpr int64_t kGroup = 8;

// y[r, p] = act(bias[r] + addend[r, p] + sum_j value[j] * x[offset[j] + p]) for p in [0, n); where
// keep[p] is 0 the result is replaced by +0.0. Reads of x are rounded up to eight floats, writes of
// y are not.
struct Tile {
  const float* x;
  const float* addend;  // null, or one row every addend_stride floats
  const int32_t* keep;  // null, or -1 / 0 a pixel, readable up to the next multiple of eight
  float* y;
  int64_t addend_stride;
  int64_t y_stride;
  int64_t n;
};

// Rows [first_row, last_row), whole groups.
using SpmmTile = void (*)(const SparseRows&, int64_t first_row, int64_t last_row, const Tile&);

namespace portable {
void spmm_tile(const SparseRows&, int64_t first_row, int64_t last_row, const Tile&);
}
namespace avx2 {
void spmm_tile(const SparseRows&, int64_t first_row, int64_t last_row, const Tile&);
}
namespace avx512 {
void spmm_tile(const SparseRows&, int64_t first_row, int64_t last_row, const Tile&);
}

SpmmTile spmm_tile_for(int64_t isa);

// A matrix in blocks of columns, summed in order: the first has the bias, the last the activation.
// A block's part of the panel stays within the first-level cache. Mirrored by kernels.py.
struct Blocks {
  const SparseRows* first;
  int64_t count;
};

// Rows [first, last) of one tile, a few at a time, so that their sums stay near between blocks.
void spmm_blocks(Blocks blocks, int64_t first, int64_t last, const Tile& tile, SpmmTile kernel);

// The first row of part `part` of `parts` of about equal work: a group's first.
int64_t split_rows(const SparseRows& rows, int64_t part, int64_t parts);

}  // namespace billhook
