#include "abi.h"
#include "isa.h"
#include "mask.h"

namespace billhook {

namespace {

template <typename Word>
void zero_masked_words(Word* data, int64_t n, const uint8_t* bits) {
  for (int64_t i = 0; i < n; ++i) {
    const Word keep = static_cast<Word>(-static_cast<Word>(bits[i >> 3] >> (i & 7) & 1));
    data[i] &= keep;
  }
}

}  // namespace

void zero_masked32_portable(uint32_t* data, int64_t n, const uint8_t* bits) {
  zero_masked_words(data, n, bits);
}

}  // namespace billhook

// Writes +0 (all bits zero) into every element of data whose mask bit is 0; bit i % 8 of byte
// i / 8 belongs to element i. Returns 0, or 1 if the element size is none of 2, 4, 8.
BILLHOOK_API int64_t billhook_mask_zero(void* data, int64_t itemsize, int64_t n,
                                        const uint8_t* bits) {
  using namespace billhook;
  if (itemsize == 4) {
    const auto zero = version_for<ZeroMasked32>(
        best_isa(), zero_masked32_portable, zero_masked32_avx2, zero_masked32_avx2);
    zero(static_cast<uint32_t*>(data), n, bits);
  } else if (itemsize == 2) {
    zero_masked_words(static_cast<uint16_t*>(data), n, bits);
  } else if (itemsize == 8) {
    zero_masked_words(static_cast<uint64_t*>(data), n, bits);
  } else {
    return 1;
  }
  return 0;
}
