// Product of a sparse matrix and a panel whose columns (pixels of a plane, samples of a batch) are
// contiguous.
//
// One row kernel carries 1x1 and k x k convolutions, dense stems, depthwise convolutions and
// batched linear layers: they differ only in the offsets their nonzeros have into the operand.
#pragma once
#include <cstdint>

namespace billhook {

// What follows a sum. A convolution may also have kHardSwish to kSilu of f32_pointwise.h, whose numbers
// are theirs here too.
enum Activation : int64_t { kNone = 0, kRelu = 1, kRelu6 = 2, kActivations = 3,
                            kConvActivations = 7 };

// CSR whose operand is either a panel, a row for each column of the matrix, or planes, where a
// nonzero's column is replaced by the offset, in floats, of its first operand element.
//
// A panel's matrix may have the rows of each chunk in another order, longest first: where one row ends
// is then predicted from the row before. Rows that share their columns (8x1 blocks, dense filters)
// come in groups of eight: a nonzero then has eight values, one per row. Mirrored by kernels.py.
struct SparseRows {
  int64_t rows;  // a multiple of `group`
  int64_t activation;
  int64_t group;           // rows of a group: 1 or kGroup
  int64_t first_column;    // panels: that `column` counts from
  const int32_t* row_ptr;  // rows / group + 1
  const int32_t* row;      // group 1: which row each one is, or null where they are in order
  const int32_t* offset;   // null for panels; may be negative: a tap left of or above the pixel
  const uint16_t* column;  // null for planes
  const float* value;      // group per nonzero
  const float* bias;       // rows, or null
};

constexpr int64_t kGroup = 8;
constexpr int64_t kChunk = 128;  // rows; mirrored by panels.py

// y[r, p] = act(bias[r] + addend[r, p] + sum_j value[j] * x[at(j) + p]) for p in [0, n), with at(j) =
// (first_column + column[j]) * x_width or offset[j]; where keep[p] is 0 the result is replaced by
// +0.0. Reads of x are rounded up to eight floats, writes of y are not.
struct Tile {
  const float* x;
  int64_t x_width;      // panels: floats of a row
  const float* addend;  // null, or one row every addend_stride floats
  const int32_t* keep;  // null, or -1 / 0 a pixel, readable up to the next multiple of eight
  float* y;
  int64_t addend_stride;
  int64_t y_stride;
  int64_t n;
};

// Rows [first_row, last_row): whole groups, and whole chunks where those are in another order.
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

// Rows [first, last) of one tile, a chunk at a time, so that their sums stay near between blocks.
void spmm_blocks(Blocks blocks, int64_t first, int64_t last, const Tile& tile, SpmmTile kernel);

// The first row of part `part` of `parts` of about equal work: a group's first, for panels a chunk's.
int64_t split_rows(const SparseRows& rows, int64_t part, int64_t parts);

}  // namespace billhook
