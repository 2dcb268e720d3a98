// A matrix in 8 bits as linear and recurrent layers use it: one packing serves vectors, another batches.
#pragma once
#include <cstdint>

#include "u8s8_spmm.h"
#include "u8s8_spmv.h"

namespace billhook {

// Pointers that are null are packings that were not made. Mirrored by bindings.py.
struct U8Matrix {
  const VectorRows* vector;
  const WindowRows* vector_windows;
  const BlockRows* batch;
  const WindowRows* batch_windows;
  const float* offset;  // batch: a row's, or null
  int64_t rows, columns;
};

// Samples side by side: the quads of a map, `plane` bytes apart, and each sample's step.
struct QuadPanel {
  const uint8_t* x;
  int64_t plane;
  int64_t samples;
  const float* steps;
};

constexpr int64_t kChunkRows = 64;  // whose sums lie in scratch memory

// y[s][row] of the samples of a panel, rows of y `y_stride` floats apart; readable in whole lines. Of
// `relu` what is negative becomes 0.
void u8_multiply_panel(const U8Matrix& m, const QuadPanel& panel, bool relu, float* y,
                       int64_t y_stride, int64_t threads, int64_t isa);

// y[row] of one vector of bytes, readable up to the next multiple of 64.
void u8_multiply(const U8Matrix& m, const uint8_t* x, float step, float* y, int64_t threads,
                 int64_t isa);

}  // namespace billhook
