// Depthwise 3x3 convolution of stride 1 or 2 on quads of u8, weights s8, exact sums in s32.
//
// Transposing the 4x4 bytes of a lane turns four pixels of four channels into four dwords, each with four
// neighbouring pixels of one channel, so that one product gives three taps of a row: [w0 w1 w2 0]
// the pixel that begins there, [0 w0 w1 w2] the next one.
#pragma once
#include <cstdint>

namespace billhook {

// Mirrored by bindings.py. A quad has 24 dwords: for each row of taps, for each channel, the two forms
// above; and four biases and four scales.
struct DepthwiseQuads {
  int64_t in_height, in_width, height, width;
  int64_t stride;  // 1 or 2, both ways
  int64_t pad_top, pad_left;
  int64_t zero;  // the byte of padding
  const int8_t* value;
  const int32_t* bias;
  const float* scale;
};

// y[p] = u8(scale * (bias + sum of taps)) of quad `quad`, whose pixels begin at x and y.
using U8Depthwise = void (*)(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);

namespace portable {
void u8s8_depthwise(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);
}
namespace avx2 {
void u8s8_depthwise(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);
}
namespace avxvnni {
void u8s8_depthwise(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);
}
namespace avx512vnni {
void u8s8_depthwise(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);
}
namespace neondot {
void u8s8_depthwise(const DepthwiseQuads&, int64_t quad, const uint8_t* x, uint8_t* y);
}

U8Depthwise u8s8_depthwise_for(int64_t isa);

}  // namespace billhook
