// CRC-32 by carry-less products (Gopal and others, "Fast CRC computation for generic polynomials using
// the PCLMULQDQ instruction", 2009): a block of 16 bytes times x^d mod P may stand d bits later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "crc32.h"

namespace billhook::pclmul {

namespace {

// x^n mod P, its bits in the order of the CRC, and one further, as products of such numbers are.
constexpr uint64_t power(int n) {
  uint32_t value = 0x80000000u;  // x^0
  for (; n > 0; --n) value = (value & 1) != 0 ? 0xedb88320u ^ value >> 1 : value >> 1;
  return static_cast<uint64_t>(value) << 1;
}

// Of the two halves of a block that moves by so many bits: the first one has the higher powers.
constexpr uint64_t kFarFirst = power(512 + 32), kFarSecond = power(512 - 32);
constexpr uint64_t kNearFirst = power(128 + 32), kNearSecond = power(128 - 32);

__m128i pair(uint64_t first, uint64_t second) {
  return _mm_set_epi64x(static_cast<int64_t>(second), static_cast<int64_t>(first));
}

__m128i moved(__m128i block, __m128i powers, __m128i onto) {
  return _mm_xor_si128(onto, _mm_xor_si128(_mm_clmulepi64_si128(block, powers, 0x00),
                                           _mm_clmulepi64_si128(block, powers, 0x11)));
}

__m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

}  // namespace

void crc_folded(uint32_t state, const uint8_t* data, size_t size, uint8_t* folded) {
  const __m128i far = pair(kFarFirst, kFarSecond), near = pair(kNearFirst, kNearSecond);
  __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(state)));
  __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
  for (const uint8_t* p = data + 64; p < data + size; p += 64) {
    a = moved(a, far, load(p));
    b = moved(b, far, load(p + 16));
    c = moved(c, far, load(p + 32));
    d = moved(d, far, load(p + 48));
  }
  const __m128i all = moved(moved(moved(a, near, b), near, c), near, d);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(folded), all);
}

}  // namespace billhook::pclmul
#endif
