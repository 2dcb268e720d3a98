// From the nonzeros of a weight to what the kernels read: lanes, panels, offsets into planes; of lanes
// and panels also back.
//
// Who calls these owns all memory: a first call says how much a packing takes, a second one fills it.
#pragma once
#include <cstdint>

#include "f32_spmm.h"
#include "f32_spmv.h"

namespace billhook {

// A sparse matrix, the columns of each row ascending; `narrow` or `wide` has them. Mirrored by packing.py.
struct Csr {
  int64_t rows;
  int64_t columns;
  const int32_t* row_ptr;
  const uint16_t* narrow;
  const int32_t* wide;
  const float* value;

  int64_t column(int64_t j) const { return narrow != nullptr ? narrow[j] : wide[j]; }
};

// Of a mask (bit i of byte j is element 8 j + i of rows x columns) the row_ptr of its matrix, and
// the columns; false if a bit beyond the last element is set or there are not `nonzeros` of them.
bool rows_of_mask(const uint8_t* mask, int64_t rows, int64_t columns, int64_t nonzeros,
                  int32_t* row_ptr, uint16_t* narrow, int32_t* wide);

// Whether each eight rows from a multiple of eight have the same columns.
bool shares_columns(const Csr& csr);

// LaneRows: rows in groups of eight, longest first, ties in row order; in order where eight rows share
// their columns. lane_steps fills group_ptr and row, and returns the steps of all groups.
int64_t lane_steps(const Csr& csr, bool shared, int32_t* group_ptr, int32_t* row);
void fill_lanes(const Csr& csr, bool shared, const int32_t* group_ptr, const int32_t* row,
                uint16_t* column, float* value);

// Blocks of the matrix of a panel of `width` columns: as many matrix columns a block as keep what it
// reads in the first-level cache, as long as a row still has some nonzeros in each.
struct ColumnBlocks {
  int64_t count;
  int64_t columns;  // of each but the last
};
ColumnBlocks column_blocks(int64_t rows, int64_t columns, int64_t nonzeros, int64_t width,
                           int64_t isa);

// Columns [first, last) as SparseRows of a panel, columns counted from `first`. Shared columns make
// groups of eight rows in order (row is not filled); otherwise the rows of a chunk are longest first.
int64_t nonzeros_between(const Csr& csr, int64_t first, int64_t last);
void fill_block(const Csr& csr, int64_t first, int64_t last, bool shared, int32_t* row_ptr,
                int32_t* row, uint16_t* column, float* value);

// The way back: the rows that lanes or blocks were packed from, each nonzero as it was.
void rows_of_lanes(const LaneRows& lanes, int32_t* row_ptr, uint16_t* column, float* value);
void rows_of_blocks(Blocks blocks, int64_t rows, int32_t* row_ptr, uint16_t* narrow, int32_t* wide,
                    float* value);

// How a convolution reads padded planes: input plane c is split into stride_height * stride_width
// phases of `plane` floats, whose rows are `pitch` floats long. Mirrored by packing.py.
struct Taps {
  int64_t inputs, kernel_height, kernel_width;  // of the weight: channels of a group, and sides
  int64_t stride_height, stride_width, dilation_height, dilation_width;
  int64_t pad_top, pad_left;
  int64_t groups;
  int64_t plane, pitch;
};

// The offset from an output pixel to the operand of each column of the first group's rows.
void tap_offsets(const Taps& taps, int32_t* offset);

// SparseRows of planes: `offsets` has an entry a column. With `shared` in groups of eight rows.
bool shares_offsets(const Csr& csr, const Taps& taps);
void fill_planes(const Csr& csr, const Taps& taps, const int32_t* offsets, bool shared,
                 int32_t* row_ptr, int32_t* offset, float* value);

}  // namespace billhook
