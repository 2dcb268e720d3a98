// Interleaved binary rANS over a mask, for the coding "entropy".
//
// Element e = (row, column, inner) of the mask belongs to lane e mod lanes (a power of two) and is 1
// with probability table[rows[row] + columns[column]] / 2^14. Each lane is a state of 32 bits in
// [2^16, 2^32); all lanes share one stream of 16-bit words. format/SPEC.md has the arithmetic.
#include "rans.h"

namespace {

constexpr int kPrecision = 14;
constexpr uint32_t kOne = 1u << kPrecision;
constexpr uint32_t kLowest = 1u << 16;
constexpr int64_t kMaxLanes = 256;

struct Shape {
  int64_t rows, columns, inner;
};

bool valid(int64_t lanes) { return lanes >= 1 && lanes <= kMaxLanes && (lanes & (lanes - 1)) == 0; }

}  // namespace

BILLHOOK_API int64_t billhook_rans_decode(const uint8_t* stream, int64_t bytes, int64_t lanes,
                                          const uint8_t* row_class, int64_t rows,
                                          const uint8_t* column_class, int64_t columns,
                                          int64_t inner, const uint16_t* table, uint8_t* mask) {
  if (!valid(lanes) || bytes < 4 * lanes) return -1;
  uint32_t states[kMaxLanes];
  const uint8_t* next = stream;
  const uint8_t* end = stream + bytes;
  for (int64_t lane = 0; lane < lanes; ++lane, next += 4) {
    states[lane] = static_cast<uint32_t>(next[0]) | static_cast<uint32_t>(next[1]) << 8 |
                   static_cast<uint32_t>(next[2]) << 16 | static_cast<uint32_t>(next[3]) << 24;
    if (states[lane] < kLowest) return -2;
  }
  int64_t element = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const uint32_t one = table[row_class[row] + column_class[column]];
      for (int64_t i = 0; i < inner; ++i, ++element) {
        uint32_t& state = states[element & (lanes - 1)];
        const uint32_t slot = state & (kOne - 1);
        const uint32_t high = state >> kPrecision;
        const bool bit = slot < one;
        state = bit ? one * high + slot : (kOne - one) * high + slot - one;
        mask[element >> 3] |= static_cast<uint8_t>(bit << (element & 7));
        if (state < kLowest) {
          if (end - next < 2) return -1;
          state = state << 16 | static_cast<uint32_t>(next[1]) << 8 | next[0];
          next += 2;
        }
      }
    }
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    if (states[lane] != kLowest) return -2;
  }
  return next - stream;
}

// Encodes the mask backwards into the end of `stream`. Returns the bytes used, which are the last
// ones of the stream, or -1 when it is too short.
BILLHOOK_API int64_t billhook_rans_encode(const uint8_t* mask, int64_t lanes,
                                          const uint8_t* row_class, int64_t rows,
                                          const uint8_t* column_class, int64_t columns,
                                          int64_t inner, const uint16_t* table, uint8_t* stream,
                                          int64_t bytes) {
  if (!valid(lanes)) return -1;
  uint32_t states[kMaxLanes];
  for (int64_t lane = 0; lane < lanes; ++lane) states[lane] = kLowest;
  uint8_t* next = stream + bytes;
  int64_t element = rows * columns * inner - 1;
  for (int64_t row = rows - 1; row >= 0; --row) {
    for (int64_t column = columns - 1; column >= 0; --column) {
      const uint32_t one = table[row_class[row] + column_class[column]];
      for (int64_t i = 0; i < inner; ++i, --element) {
        uint32_t& state = states[element & (lanes - 1)];
        const bool bit = mask[element >> 3] >> (element & 7) & 1;
        const uint32_t share = bit ? one : kOne - one;
        if (state >= static_cast<uint64_t>(share) << (32 - kPrecision)) {
          if (next - stream < 2) return -1;
          *--next = static_cast<uint8_t>(state >> 8);
          *--next = static_cast<uint8_t>(state);
          state >>= 16;
        }
        state = ((state / share) << kPrecision) + state % share + (bit ? 0 : one);
      }
    }
  }
  if (next - stream < 4 * lanes) return -1;
  for (int64_t lane = lanes - 1; lane >= 0; --lane) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      *--next = static_cast<uint8_t>(states[lane] >> shift);
    }
  }
  return stream + bytes - next;
}
