// Sparse matrix of s8 times one vector of u8: sixteen rows at a time, one lane per row.
#pragma once
#include <cstdint>

namespace billhook {

// Packs of sixteen rows, longest first. A step of a pack has four values for each row; rows in groups
// of `group` (1, 4, 8, 16) share a column of four operand elements. Shorter rows are filled up with
// value 0 at column 0. Mirrored by bindings.py.
struct VectorRows {
  int64_t rows;
  int64_t columns;
  int64_t group;
  int64_t packs;
  const int32_t* ptr;      // packs + 1, in steps
  const uint16_t* column;  // 16 / group per step
  const int8_t* value;     // 64 a step; for AVX2 of eight rows values 0 and 2, then 1 and 3
  const int32_t* row;      // 16 a pack: the output row of each lane, -1 for none
  const int32_t* bias;     // 16 a pack
  const float* scale;      // 16 a pack
  const float* offset;     // 16 a pack, or null
};

// y[row] = sum * scale[row] * step + offset[row], sum = bias[row] + products. Packs [first, last).
using U8Spmv = void (*)(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
                        float* y);

namespace portable {
void u8s8_spmv(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}
namespace avx2 {
void u8s8_spmv(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}
namespace avxvnni {
void u8s8_spmv(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}
namespace avx512vnni {
void u8s8_spmv(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}
namespace neondot {
void u8s8_spmv(const VectorRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}

U8Spmv u8s8_spmv_for(int64_t isa);

// Unstructured zeros: windows of 64 columns. In each step of a window a row of a pack has up to four
// nonzeros; vpermb picks each row's columns out of the window. AVX512_VBMI alone. For vectors a step
// is a mask of the 64 places that are used, their columns, then their values; for maps (`index` is
// not null) 64 columns and 64 values with zeros in unused places. Mirrored by bindings.py.
struct WindowRows {
  int64_t rows;
  int64_t columns;
  int64_t packs;
  int64_t windows;         // of 64 columns
  const int32_t* ptr;      // packs * windows + 1, in steps
  const uint64_t* mask;    // one per step
  const uint8_t* stream;   // columns and values of each step
  const int64_t* begin;    // packs + 1: where a pack begins in the stream
  const uint8_t* index;    // 64 a step
  const int8_t* value;     // 64 a step
  const int32_t* bias;     // 16 a pack
  const float* scale;      // 16 a pack
  const float* offset;     // 16 a pack, or null
};

namespace avx512vbmi {
// x has `windows` whole windows.
void u8s8_spmv(const WindowRows&, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y);
}

}  // namespace billhook
