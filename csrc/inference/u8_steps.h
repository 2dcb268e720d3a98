// The steps of a feed-forward program in 8 bits: planned once; one call runs the network.
#pragma once
#include <cstdint>

#include "u8_linear.h"
#include "u8_map.h"
#include "u8s8_depthwise.h"
#include "u8s8_spmm.h"

namespace billhook {

enum U8Op : int64_t {
  kU8Quantise = 0,    // fp32 planes to a map
  kU8Dequantise = 1,  // and back
  kU8Conv = 2,
  kU8Depthwise = 3,
  kU8MaxPool = 4,
  kU8AveragePool = 5,
  kU8Mean = 6,     // a map to a vector
  kU8Add = 7,      // of two maps, or of one with another range
  kU8Copy = 8,     // channels of a map to others, in any position
  kU8Flatten = 9,  // a map to a vector, channel by channel
  kU8Linear = 10,  // a vector of bytes to one of floats; of a map each pixel's channels to a row
  kU8QuantiseVector = 11,
  kU8Table = 12,     // of each byte another
  kU8Multiply = 13,  // of two maps, or of a map and a byte for each channel
  kU8Select = 14     // channels of a map in any order
};

// Part of a buffer: `offset` and `plane` (from quad to quad of a map) in bytes.
struct U8View {
  int64_t buffer;  // index into the buffers of the call, -1 for none
  int64_t offset;
  int64_t plane;
};

// Mirrored by bindings.py.
struct U8Step {
  int64_t op;
  U8View x, y, addend;
  int64_t channels;  // of x; of a vector, its elements
  int64_t first;     // kU8Copy: the channel of y where x's first one goes
  int64_t pixels;    // of x; kU8Conv: of y
  Window2d window;   // kU8Conv, kU8Depthwise, kU8MaxPool, kU8AveragePool
  int64_t gather;    // kU8Conv: the operand is a panel of the window's taps
  int64_t lines;     // kU8Conv: widest tile, in lines of 16 pixels
  int64_t count_padding;
  int64_t relu;      // kU8Linear: of the floats
  int64_t by_sample;  // kU8Quantise, kU8Dequantise: fp32 lies pixel by pixel, not in planes
  int64_t selected;    // kU8Select: channels of y
  int64_t by_channel;  // kU8Multiply: the addend is a vector
  int64_t zero, addend_zero;  // kU8Multiply: the bytes of zero
  double scale;      // kU8Quantise: 1 / step; kU8Dequantise: step; kU8Mean, kU8Add: of x; kU8Multiply
  double addend_scale;
  double shift;      // added before rounding; kU8Dequantise: the byte of zero
  const BlockRows* rows;       // kU8Conv
  const WindowRows* windows;   // kU8Conv, instead of rows
  const DepthwiseQuads* depthwise;
  const U8Matrix* matrix;      // kU8Linear
  const uint8_t* table;        // kU8Table: 256 bytes
  const int32_t* index;        // kU8Select: of each channel of y, that of x
};

// Runs the steps for one sample, or where pixels are samples for `pixels` of them (0: as planned). False
// if fp32 that was read was not finite; the results are undefined then.
bool run_u8_steps(const U8Step* steps, int64_t count, uint8_t* const* bases, int64_t pixels,
                  int64_t threads, int64_t isa);

}  // namespace billhook
