// Sparse matrix times one vector: eight rows at a time, longest first, one lane per row.
#pragma once
#include <cstdint>

namespace billhook {

// Groups of eight rows. Step s of a group holds eight values and either eight columns (unstructured)
// or one that all eight rows share (8x1 blocks). Shorter rows are filled up with value 0 at column
// `columns`, an operand element that is always zero. Mirrored by kernels.py.
struct LaneRows {
  int64_t rows;
  int64_t columns;
  int64_t groups;
  int64_t activation;
  int64_t shared_columns;    // 1: one column per step, 0: eight
  const int32_t* group_ptr;  // groups + 1, in steps
  const uint16_t* column;
  const float* value;
  const int32_t* row;  // 8 * groups: the output row of each lane, -1 for none
  const float* bias;   // rows, or null
};

// y[row] = act(bias[row] + addend[row] + dot); x has columns + 1 elements, the last one zero.
using SpmvGroups = void (*)(const LaneRows&, int64_t first, int64_t last, const float* x,
                            const float* addend, float* y);

namespace portable {
void spmv_groups(const LaneRows&, int64_t first, int64_t last, const float* x,
                 const float* addend, float* y);
}
namespace avx2 {
void spmv_groups(const LaneRows&, int64_t first, int64_t last, const float* x,
                 const float* addend, float* y);
}
namespace avx512 {
void spmv_groups(const LaneRows&, int64_t first, int64_t last, const float* x,
                 const float* addend, float* y);
}

// All rows; `x` has `columns` elements, `addend` is null or has one per row.
void spmv(const LaneRows& w, const float* x, const float* addend, float* y, int64_t threads,
          int64_t isa);

}  // namespace billhook
