// A table of 256 bytes, looked up for vectors of bytes: two at a time, which share what is loaded of it.
#pragma once
#include "u8_vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

#if BILLHOOK_LANES == 4
BILLHOOK_INLINE Bytes differing(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
BILLHOOK_INLINE Bytes shuffled(Bytes v, Bytes index) { return _mm512_shuffle_epi8(v, index); }
BILLHOOK_INLINE Bytes less_16(Bytes v) { return _mm512_subs_epi8(v, _mm512_set1_epi8(16)); }
#elif BILLHOOK_LANES == 2
BILLHOOK_INLINE Bytes differing(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
BILLHOOK_INLINE Bytes shuffled(Bytes v, Bytes index) { return _mm256_shuffle_epi8(v, index); }
BILLHOOK_INLINE Bytes less_16(Bytes v) { return _mm256_subs_epi8(v, _mm256_set1_epi8(16)); }
#endif

// Of both halves of a table part i is what differs between bytes 16 * i and the 16 before; a shuffle
// makes 0 of negative indices, so that the differences up to an index's own remain.
#if BILLHOOK_LANES >= 2
struct Table {
  Bytes part[16];
  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 16; ++i) {
      part[i] = splat_lane(table + 16 * i);
      if (i % 8 != 0) part[i] = differing(part[i], splat_lane(table + 16 * (i - 1)));
    }
  }
  void look_up(Bytes (&x)[2]) const {
    Bytes low[2] = {x[0], x[1]}, high[2], made[2];
    for (int k = 0; k < 2; ++k) {
      high[k] = differing(x[k], splat_bytes(static_cast<int32_t>(0x80808080u)));
      made[k] = differing(shuffled(part[0], low[k]), shuffled(part[8], high[k]));
    }
#pragma GCC unroll 8
    for (int i = 1; i < 8; ++i)
      for (int k = 0; k < 2; ++k) {
        low[k] = less_16(low[k]), high[k] = less_16(high[k]);
        made[k] = differing(made[k], differing(shuffled(part[i], low[k]), shuffled(part[8 + i], high[k])));
      }
    x[0] = made[0], x[1] = made[1];
  }
};
#elif BILLHOOK_LANES == 1
struct Table {
  uint8x16x4_t part[4];
  explicit Table(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) part[i] = vld1q_u8_x4(table + 64 * i);
  }
  void look_up(Bytes (&x)[2]) const {
    for (Bytes& v : x) {
      Bytes made = vqtbl4q_u8(part[0], v);
      for (int i = 1; i < 4; ++i) {
        v = vsubq_u8(v, vdupq_n_u8(64));
        made = vorrq_u8(made, vqtbl4q_u8(part[i], v));
      }
      v = made;
    }
  }
};
#endif

}  // namespace billhook::BILLHOOK_NAMESPACE
