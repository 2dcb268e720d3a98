// The steps of a feed-forward program: planned once; one call runs the network.
#pragma once
#include <cstdint>

#include "f32_spmm.h"
#include "f32_spmv.h"

namespace billhook {

enum Op : int64_t { kCopy = 0, kSpmm = 1, kMaxPool = 2, kAvgPool = 3, kMean = 4, kAdd = 5,
                  kLinear = 6, kDepthwise = 7, kRearrange = 8, kFill = 9, kPointwise = 10,
                  kBinary = 11, kNormalise = 12, kSoftmax = 13, kReduce = 14, kMatmul = 15,
                  kAttention = 16, kEmbed = 17, kCast = 18, kResize = 19, kLstm = 20, kGru = 21 };

constexpr int64_t kMaxDims = 8;

// Channel-major planes: element (c, i, j) is at offset + c * plane + i * pitch + j.
struct View {
  int64_t buffer;  // index into the buffers of the call, -1 for none
  int64_t offset;
  int64_t plane;
  int64_t pitch;
};

// Mirrored by kernels.py.
struct Step {
  int64_t op;
  View x, y, addend, extra, mask;
  int64_t channels;       // of x; kSpmm, packed: rows of a panel
  int64_t in_height, in_width, height, width;
  int64_t kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left;
  int64_t count_padding;  // kAvgPool: divide by the whole window
  int64_t activation;     // kAdd, kBinary
  int64_t function;       // kPointwise, kBinary: see f32_pointwise.h; others say what they do
  int64_t dims;           // kRearrange
  int64_t size[kMaxDims], from[kMaxDims], to[kMaxDims];  // see each operation's header
  double parameters[2];
  int64_t pixels;         // kSpmm: columns of the product, row ends included
  int64_t vectors;        // kSpmm: widest tile, in vectors of eight pixels
  int64_t packed;         // kSpmm: offsets are into a panel of 8 * vectors columns
  const int32_t* keep;    // kSpmm: see Tile
  const int32_t* panel;   // kSpmm, packed: where each of the `channels` rows of a panel begins in x
  Blocks rows;            // kSpmm; kDepthwise: one block, offset[j] = ky * kernel_width + kx
  SparseRows depthwise;   // kSpmm: fills the panel when it has rows
  LaneRows lanes;         // kLinear: x and y are vectors; kLstm, kGru: the recurrent matrix
};

// What a step reads and writes, as addresses; null where it has no such view.
struct Operands {
  const float* x;
  const float* addend;
  const float* extra;
  float* y;
  int64_t threads, isa;
};

// Runs the steps for one sample, whose buffers are `bases`.
void run_steps(const Step* steps, int64_t count, float* const* bases, int64_t threads, int64_t isa);

}  // namespace billhook
