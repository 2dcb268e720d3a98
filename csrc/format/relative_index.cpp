// Coding "relative_index": for each stored value the number of zeros before it, in `bits` bits.
#include "abi.h"
#include "elements.h"

using billhook::load;
using billhook::store;
using billhook::with_width;

namespace {

// Number `i` of the `bits`-bit numbers packed in `index`, lowest bit first; bits <= 8.
inline unsigned gap_at(const uint8_t* index, int64_t bytes, int64_t bits, int64_t i) {
  const int64_t position = i * bits;
  const int64_t byte = position >> 3;
  unsigned pair = index[byte];
  if (byte + 1 < bytes) pair |= static_cast<unsigned>(index[byte + 1]) << 8;
  return (pair >> (position & 7)) & ((1u << bits) - 1);
}

template <class T>
int64_t decode(const uint8_t* index, int64_t bytes, int64_t bits, const uint8_t* values,
               int64_t stored, uint8_t* out, int64_t numel) {
  int64_t position = 0;
  for (int64_t i = 0; i < stored; ++i) {
    position += gap_at(index, bytes, bits, i);
    if (position >= numel) return -1;
    store<T>(out, position++, load<T>(values, i));
  }
  return position;
}

template <class T>
int64_t count_padding(const uint8_t* elements, int64_t numel, int64_t* padding) {
  int64_t begin = 0;
  for (int64_t i = 0; i <= numel; ++i) {
    if (i < numel && load<T>(elements, i) == 0) continue;
    const int64_t gap = i - begin;
    for (int bits = 0; bits <= 8; ++bits) padding[bits] += gap >> bits;
    begin = i + 1;
  }
  return 0;
}

struct Packer {
  uint8_t* index;
  int64_t bits;
  uint64_t pending = 0;
  int64_t filled = 0;

  void put(uint64_t gap) {
    pending |= gap << filled;
    for (filled += bits; filled >= 8; filled -= 8, pending >>= 8) {
      *index++ = static_cast<uint8_t>(pending);
    }
  }
  void finish() {
    if (filled > 0) *index = static_cast<uint8_t>(pending);
  }
};

template <class T>
int64_t encode(const uint8_t* elements, int64_t numel, int64_t bits, uint8_t* index,
               uint8_t* values, int64_t stored) {
  const int64_t longest = (int64_t{1} << bits) - 1;
  Packer packer{index, bits};
  int64_t next = 0;
  int64_t gap = 0;
  for (int64_t i = 0; i < numel; ++i) {
    const T element = load<T>(elements, i);
    if (element == 0 && gap < longest) {
      ++gap;
      continue;
    }
    if (next >= stored) return -1;
    store<T>(values, next++, element);  // a nonzero, or the padding zero that ends a full gap
    packer.put(static_cast<uint64_t>(gap));
    gap = 0;
  }
  packer.finish();
  return next;
}

}  // namespace

// Scatters `stored` values into `out`, `numel` zeroed elements; `bytes` = ceil(stored * bits / 8).
// Returns the element after the last one placed, or -1 when a gap leads beyond the end.
BILLHOOK_API int64_t billhook_relative_index_decode(const uint8_t* index, int64_t bytes,
                                                    int64_t bits, const uint8_t* values,
                                                    int64_t stored, int64_t width, uint8_t* out,
                                                    int64_t numel) {
  return with_width(width, [&](auto type) {
    return decode<decltype(type)>(index, bytes, bits, values, stored, out, numel);
  });
}

// Adds to padding[k], for k in 0..8, the padding zeros that gaps of k bits need. Returns 0.
BILLHOOK_API int64_t billhook_relative_index_padding(const uint8_t* elements, int64_t numel,
                                                     int64_t width, int64_t* padding) {
  return with_width(width, [&](auto type) {
    return count_padding<decltype(type)>(elements, numel, padding);
  });
}

// Fills the index of ceil(stored * bits / 8) bytes and exactly `stored` values, padding zeros
// included. Returns the values written, or -1 when there are more.
BILLHOOK_API int64_t billhook_relative_index_encode(const uint8_t* elements, int64_t numel,
                                                    int64_t width, int64_t bits, uint8_t* index,
                                                    uint8_t* values, int64_t stored) {
  return with_width(width, [&](auto type) {
    return encode<decltype(type)>(elements, numel, bits, index, values, stored);
  });
}
