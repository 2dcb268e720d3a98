// Sparse matrix of s8 times u8 pixels, sums in s32: blocks of `group` rows by four columns.
//
// Activations lie as [channels / 4][pixels][4]: a "quad" is four channels, and a vector holds pixels
// of one quad. One block then is one vpdpbusd per row for 16 pixels. The same kernel carries 1x1 and k x
// k convolutions, dense ones (all blocks present), grouped ones and batches of linear layers.
#pragma once
#include <cstdint>

namespace billhook {

// Rows come in groups that share their columns; group is 1, 4, 8 or 16. `groups` * `group` is a
// multiple of four and may exceed `rows`: what is beyond has no blocks. Mirrored by bindings.py.
struct BlockRows {
  int64_t rows;
  int64_t group;
  int64_t groups;
  const int32_t* ptr;      // groups + 1, in blocks
  const uint16_t* column;  // quads of the operand
  const int8_t* value;     // group * 4 a block: a row's four values side by side; for AVX2 as words,
                           // values 0 and 2 before 1 and 3
  const int32_t* bias;     // groups * group
  const float* scale;      // groups * group
};

// Pixels in a line: the tile widths of plans, maps and panels count in these on every instruction set.
constexpr int64_t kLine = 16;

// Pixels [0, 16 * lines) of the product. With sum = bias[r] + sum of products,
//   bytes:  y[r / 4][p][r % 4] = u8(sum * scale[r] (+ addend * addend_scale))
//   floats: y[r][p] = sum * scale[r]
// Planes and rows are `*_plane` bytes or floats apart. Whole lines are read and written.
struct QuadTile {
  const uint8_t* x;
  const uint8_t* addend;  // null, or of y's layout
  uint8_t* bytes;         // null where floats are wanted
  float* floats;
  int64_t x_plane;
  int64_t addend_plane;
  int64_t y_plane;
  int64_t lines;
  float addend_scale;
};

// Groups [first, last), multiples of four where group is 1.
using U8SpmmTile = void (*)(const BlockRows&, int64_t first, int64_t last, const QuadTile&);

namespace portable {
void u8s8_spmm(const BlockRows&, int64_t first, int64_t last, const QuadTile&);
}
namespace avx2 {
void u8s8_spmm(const BlockRows&, int64_t first, int64_t last, const QuadTile&);
}
namespace avxvnni {
void u8s8_spmm(const BlockRows&, int64_t first, int64_t last, const QuadTile&);
}
namespace avx512vnni {
void u8s8_spmm(const BlockRows&, int64_t first, int64_t last, const QuadTile&);
}
namespace neondot {
void u8s8_spmm(const BlockRows&, int64_t first, int64_t last, const QuadTile&);
}

struct WindowRows;

namespace avx512vbmi {
// The same for unstructured zeros, packs [first, last); see u8s8_spmv.h. x is read as far as the rows'
// `columns` say.
void u8s8_spmm(const WindowRows&, int64_t first, int64_t last, const QuadTile&);
}

U8SpmmTile u8s8_spmm_for(int64_t isa);

// The first group of part `part` of `parts` of about equal work.
int64_t split_groups(const BlockRows& rows, int64_t part, int64_t parts);

}  // namespace billhook
