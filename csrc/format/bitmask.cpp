// Coding "bitmask": bit i of byte j says whether element 8 j + i is stored.
#include <bit>

#include "abi.h"
#include "elements.h"

using billhook::load;
using billhook::store;
using billhook::with_width;

namespace {

// The bits of up to 8 mask bytes as one number, first byte lowest on any machine.
inline uint64_t word(const uint8_t* mask, int64_t begin, int64_t end) {
  uint64_t bits = 0;
  const int64_t count = end - begin < 8 ? end - begin : 8;
  for (int64_t i = 0; i < count; ++i) bits |= static_cast<uint64_t>(mask[begin + i]) << (8 * i);
  return bits;
}

template <class T>
int64_t decode(const uint8_t* mask, int64_t numel, const uint8_t* values, int64_t stored,
               uint8_t* out) {
  const int64_t bytes = (numel + 7) / 8;
  int64_t next = 0;
  for (int64_t begin = 0; begin < bytes; begin += 8) {
    uint64_t bits = word(mask, begin, bytes);
    if (next + std::popcount(bits) > stored) return -1;
    for (; bits != 0; bits &= bits - 1) {
      const int64_t element = 8 * begin + std::countr_zero(bits);
      if (element >= numel) return -1;
      store<T>(out, element, load<T>(values, next++));
    }
  }
  return next;
}

template <class T>
int64_t encode(const uint8_t* elements, int64_t numel, uint8_t* mask, uint8_t* values,
               int64_t room) {
  int64_t next = 0;
  for (int64_t begin = 0; begin < numel; begin += 8) {
    const int64_t end = begin + 8 < numel ? begin + 8 : numel;
    if (next + (end - begin) > room) return -1;
    unsigned bits = 0;
    for (int64_t i = begin; i < end; ++i) {
      const T element = load<T>(elements, i);
      store<T>(values, next, element);  // overwritten unless it counts
      next += element != 0;
      bits |= static_cast<unsigned>(element != 0) << (i - begin);
    }
    mask[begin / 8] = static_cast<uint8_t>(bits);
  }
  return next;
}

}  // namespace

// Scatters `stored` values into `out`, `numel` zeroed elements. Returns the values used, or -1 when
// the mask asks for more than there are or for places beyond the last element.
BILLHOOK_API int64_t billhook_bitmask_decode(const uint8_t* mask, int64_t numel,
                                             const uint8_t* values, int64_t stored, int64_t width,
                                             uint8_t* out) {
  return with_width(width, [&](auto type) {
    return decode<decltype(type)>(mask, numel, values, stored, out);
  });
}

// Fills the mask of ceil(numel / 8) bytes and the values, which need room for the nonzeros and 8
// more. Returns the nonzeros, or -1 when `room` is too small.
BILLHOOK_API int64_t billhook_bitmask_encode(const uint8_t* elements, int64_t numel, int64_t width,
                                             uint8_t* mask, uint8_t* values, int64_t room) {
  return with_width(width, [&](auto type) {
    return encode<decltype(type)>(elements, numel, mask, values, room);
  });
}
