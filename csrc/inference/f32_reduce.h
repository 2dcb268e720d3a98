// Normalisation, softmax and reductions.
#pragma once
#include "steps.h"

namespace billhook {

// What the elements of one result are, in planes of `channels` x height x width.
enum Extent : int64_t {
  kAcrossChannels = 0,  // a pixel of all channels
  kAcrossRows = 1,      // a column of one plane; kNormalise: size[0] groups of planes
  kWithinRow = 2        // a row of one plane
};

// kNormalise: (x - mean) / sqrt(variance + parameters[0]), over `function`, an Extent; with size[1] = 0
// x / sqrt(mean of x^2 + parameters[0]). Times addend[c] plus extra[c] where those are not null, c the
// channel, or kWithinRow the column.
void run_normalise(const Step& step, const Operands& at);

// kSoftmax: e^(x - max) over its sum, over `function`, an Extent; its logarithm if size[0] is 1.
void run_softmax(const Step& step, const Operands& at);

// kReduce: one plane from all channels. `function`: 0 the mean, 1 the sum, 2 the largest, 3 the least.
void run_reduce(const Step& step, const Operands& at);

// Columns [first, first + count) of a plane's row, at most a vector; or a whole row or group.
struct Reduced {
  const float* x;
  const float* scale;
  const float* shift;
  float* y;
};

#define BILLHOOK_REDUCE                                                                  \
  void normalise_columns(const Step&, const Reduced&, int64_t count);                    \
  void normalise_group(const Step&, const Reduced&, int64_t planes);                     \
  void softmax_columns(const Reduced&, int64_t x_stride, int64_t y_stride, int64_t size, \
                       int64_t count, bool log);                                         \
  void softmax_row(const Reduced&, int64_t n, bool log);                                 \
  void reduce_columns(const Step&, const float* x, float* y, int64_t count);             \
  int64_t vector_lanes();

namespace portable {
BILLHOOK_REDUCE
}
namespace avx2 {
BILLHOOK_REDUCE
}
namespace avx512 {
BILLHOOK_REDUCE
}

}  // namespace billhook
