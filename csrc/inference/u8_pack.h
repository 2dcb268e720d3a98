// From weights in s8 to what the kernels read: blocks, packs, windows, taps of single channels.
//
// Who calls these owns all memory: a first call says how much a packing takes, a second one fills it.
#pragma once
#include <cstdint>

namespace billhook {

// Row by row. Mirrored by packing.py.
struct S8Matrix {
  int64_t rows, columns;
  const int8_t* value;
};

// A convolution's weights (rows, inputs, taps), rows in `groups`. Mirrored by packing.py.
struct S8Filters {
  int64_t rows, inputs, taps, groups;
  const int8_t* value;
};

// Filters (channels, height, width) of a depthwise convolution; stride is that of columns. Mirrored by
// packing.py.
struct S8Taps {
  int64_t channels, height, width, stride, words;
  const int8_t* value;
};

constexpr int64_t kPackRows = 16, kWindowColumns = 64, kStepBytes = 64;

// The matrix (rows, matrix_columns) of a convolution in the order that operands lie in: taps, then the
// channels of all groups, filled up to whole quads.
int64_t matrix_columns(const S8Filters& filters);
void fill_matrix(const S8Filters& filters, int8_t* matrix);

// bias[r] + 128 * (the sum of row r): what makes up for operands less 128.
void shift_biases(const S8Matrix& m, const int32_t* bias, int32_t* shifted);

// BlockRows: blocks of `group` rows by four columns that have a nonzero, or all of them. count_blocks
// fills ptr (block_groups + 1) and returns the blocks; `words`: values as AVX2 multiplies them.
int64_t block_groups(int64_t rows, int64_t group);
int64_t count_blocks(const S8Matrix& m, int64_t group, bool all, int32_t* ptr);
void fill_blocks(const S8Matrix& m, int64_t group, bool all, bool words, uint16_t* column,
                 int8_t* value);

// VectorRows: packs of sixteen rows, the longest first; in order where they share their columns.
// pack_steps fills ptr (packs + 1) and row (16 a pack) and returns the steps.
int64_t pack_count(int64_t rows);
int64_t pack_steps(const S8Matrix& m, int64_t group, int32_t* ptr, int32_t* row);
void fill_packs(const S8Matrix& m, int64_t group, bool words, const int32_t* ptr, const int32_t* row,
                uint16_t* column, int8_t* value);

// WindowRows. window_steps fills ptr (packs * windows + 1) and returns the steps. Then the places of
// maps, or the stream of vectors, which has two bytes for each nonzero.
int64_t window_count(int64_t columns);
int64_t window_steps(const S8Matrix& m, int32_t* ptr);
void fill_windows(const S8Matrix& m, const int32_t* ptr, uint8_t* index, int8_t* value);
void fill_stream(const S8Matrix& m, const int32_t* ptr, uint64_t* mask, int64_t* begin,
                 uint8_t* stream);

// DepthwiseQuads of taps in runs of four, or for AVX2 two as words.
int64_t quads_bytes(const S8Taps& taps);
void fill_quads(const S8Taps& taps, int8_t* value);

}  // namespace billhook
