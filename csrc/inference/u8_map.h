// Everything a network in 8 bits does beside its products: borders to fp32, pools, sums, panels.
//
// A map is [channels / 4][plane]: pixel p of a quad is at 4 * p of its plane. See u8s8_spmm.h.
#pragma once
#include <cstdint>

namespace billhook {

// Windows over a map: of convolutions and pools.
struct Window2d {
  int64_t in_height, in_width, height, width;
  int64_t kernel_height, kernel_width, stride_height, stride_width;
  int64_t dilation_height, dilation_width;
  int64_t pad_top, pad_left;
  int64_t zero;  // the byte of padding
};

// Lines of a panel (16 pixels of a quad) that a copy of pixels may overrun.
constexpr int64_t kSlack = 64;  // bytes

// Buffers of a thread, each for one use: see scratch() in f32_panel.h.
enum U8Slot : int {
  kSumsSlot = 0,   // of products as floats
  kPanelSlot = 1,  // an operand
  kRowSlot = 2,    // a row of pixels that pools read, or windows of columns
  kCountSlot = 3,  // sums of average pools, and how many pixels each has
  kRunSlot = 4,    // what a panel's rows are copied from
  kWordSlot = 5,   // a vector as words
  kBytesSlot = 6,  // rows or vectors of bytes
  kStepSlot = 7    // of samples
};
uint8_t* byte_scratch(U8Slot slot, int64_t bytes);
// In kWordSlot, of so many columns; in kRowSlot, of so many windows.
static constexpr int64_t word_bytes(int64_t columns) { return 2 * columns + 128; }
static constexpr int64_t turned_bytes(int64_t windows) { return 1024 * windows; }
constexpr int64_t kRunBytes = 24;
// In kRunSlot, for `count` pixels of rows of `width`.
static constexpr int64_t run_bytes(int64_t width, int64_t count) {
  return 3 * kRunBytes * (count / width + 2);
}

// u8((a - a_zero) * (b - b_zero) * scale + shift) of bytes a and b.
struct U8Product {
  float a_zero, b_zero, scale, shift;
};

struct U8Map {
  // y[p][c] = u8(x[c][p] * inverse + zero) of up to four channels `x_plane` floats apart. Returns
  // whether all were finite.
  bool (*quantise)(const float* x, int64_t x_plane, int64_t channels, int64_t pixels, float inverse,
                   float zero, uint8_t* y);
  // y[i] = u8(x[i] * inverse + zero). Returns whether all were finite.
  bool (*quantise_vector)(const float* x, int64_t count, float inverse, float zero, uint8_t* y);
  // panel[q][s] = the quad q of row s of bytes, four a quad; rows are `stride` bytes, q's `width` quads.
  void (*turn)(const uint8_t* rows, int64_t stride, int64_t samples, int64_t quads, uint8_t* panel,
               int64_t width);
  // y[s][r] = sums[r][s] * steps[s] + offset[r]; offset may be null.
  void (*turn_back)(const float* sums, int64_t width, int64_t rows, int64_t samples,
                    const float* steps, const float* offset, float* y, int64_t y_stride);
  // The largest magnitude; NaN if there is one.
  float (*largest)(const float* x, int64_t count);
  // y[p] = u8(a[p] * a_scale + b[p] * b_scale + shift) of bytes; b may be null.
  void (*add)(const uint8_t* a, float a_scale, const uint8_t* b, float b_scale, float shift,
              int64_t count, uint8_t* y);
  // y[i] = table[x[i]] of 256 bytes.
  void (*look_up)(const uint8_t* table, const uint8_t* x, int64_t count, uint8_t* y);
  // Products of bytes, or with four bytes b for each pixel.
  void (*multiply)(const uint8_t* a, const uint8_t* b, bool by_channel, const U8Product& product,
                   int64_t count, uint8_t* y);
  // A quad of `channels` bytes of each pixel: byte 4 * p of from[c].
  void (*select)(const uint8_t* const* from, int64_t channels, int64_t pixels, uint8_t* y);
  // Of each of a quad's four channels u8(sum of pixels * scale + shift).
  void (*mean)(const uint8_t* x, int64_t pixels, float scale, float shift, uint8_t* y);
  // One quad. The average of bytes is rounded half to even; `count_padding`: divide by whole windows.
  void (*max_pool)(const Window2d& w, const uint8_t* x, uint8_t* y);
  void (*average_pool)(const Window2d& w, bool count_padding, const uint8_t* x, uint8_t* y);
  // Rows (tap, quad) of a panel: the operand pixels of result pixels [first, first + count). A row is
  // `width` pixels; kSlack bytes more than the panel are written.
  void (*gather)(const Window2d& w, const uint8_t* x, int64_t x_plane, int64_t quads, int64_t first,
                 int64_t count, uint8_t* panel, int64_t width);
};

namespace portable {
extern const U8Map u8_map;
}
namespace avx2 {
extern const U8Map u8_map;
}
namespace avxvnni {
extern const U8Map u8_map;
}
namespace avx512vnni {
extern const U8Map u8_map;
}
namespace neondot {
extern const U8Map u8_map;
}

const U8Map& u8_map_for(int64_t isa);

}  // namespace billhook
