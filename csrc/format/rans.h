// Decoding of the masks of the coding "entropy", for the runtime too.
#pragma once
#include "abi.h"

namespace billhook {

constexpr int kRansPrecision = 14;
constexpr uint32_t kRansLowest = 1u << 16;  // of a state

// The states of `lanes` lanes, and the words that are left.
struct RansStream {
  uint32_t* states;
  int64_t lanes;
  const uint8_t* next;
  const uint8_t* end;
};

// Decodes rows * columns * inner bits into `mask`, ceil(numel / 8) zeroed bytes. `stream` holds the
// lanes' states, then the words. Returns the bytes used, -1 when the stream is too short, -2 when
// the states do not end where an encoder begins.
int64_t rans_decode(const uint8_t* stream, int64_t bytes, int64_t lanes, const uint8_t* row_class,
                    int64_t rows, const uint8_t* column_class, int64_t columns, int64_t inner,
                    const uint16_t* table, uint8_t* mask);

namespace avx2 {
// Elements from `element` on, a multiple of eight, of eight lanes or more; each has its share. Returns how
// many it decoded: all whole groups of eight, or as many as a stream has sixteen bytes left before.
int64_t rans_groups(RansStream& stream, int64_t element, const uint16_t* shares, int64_t count,
                    uint8_t* mask);
}  // namespace avx2

}  // namespace billhook
