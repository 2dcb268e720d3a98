// One-bit masks applied to tensors in place. Elements are integers of any width: everything that is
// written is +0, whose bits are 0, or the bits of another element.
#pragma once
#include <cstdint>

namespace billhook {

// A mask that is about to be replaced, and the new one.
struct Change {
  const uint8_t* before;
  const uint8_t* now;
};

// Of elements begin to end (begin a multiple of 64), each in versions for 2, 4 and 8 bytes:
// +0 at every masked place; whether anything else stood at one.
using Zero = bool (*)(void* data, int64_t begin, int64_t end, const uint8_t* bits);
// +0 at every place that is masked now and was not.
using ZeroLeaving = void (*)(void* data, int64_t begin, int64_t end, const Change& change);
// Weights that leave go aside, those that return come back.
using Exchange = void (*)(void* weight, void* aside, int64_t begin, int64_t end,
                          const Change& change);

// Exchange of one weight. Static: each instruction set has its own.
template <class Word>
static inline void exchange_one(Word* weights, Word* aside, int64_t i, bool returns) {
  if (returns) {
    weights[i] = aside[i];
  } else {
    aside[i] = weights[i];
    weights[i] = 0;
  }
}

struct Apply {
  Zero zero;
  ZeroLeaving zero_leaving;
  Exchange exchange;
};

// The versions for elements of `itemsize` bytes; null if it is none of 2, 4, 8.
const Apply* apply_portable(int64_t itemsize);
const Apply* apply_avx2(int64_t itemsize);

}  // namespace billhook
