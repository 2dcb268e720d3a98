// Exact selection of the largest fp32 scores.
#pragma once
#include <cstdint>
#include <cstring>

namespace billhook {

// Maps an fp32 to an unsigned key of the same order; -0.0 and +0.0 get the same key.
inline uint32_t order_key(float score) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  if (bits == 0x80000000u) bits = 0;
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

struct Candidate {
  int64_t index;
  uint32_t key;
};

// What one pass over the scores finds out about the keys between low and high, both included.
struct Bracket {
  uint32_t low, high;
  Candidate* candidates;  // room for `capacity` of them
  int64_t capacity;
  int64_t found = 0;  // more than capacity: the pass was given up
  int64_t above = 0;  // scores with keys above high
  bool nan = false;   // some score is NaN
};

// Writes keep_out[i] = key(scores[i]) > high and collects the scores inside the bracket, in order.
using ScanBracket = void (*)(const float* scores, int64_t begin, int64_t n, Bracket& bracket,
                             uint8_t* keep_out);
void scan_bracket_portable(const float*, int64_t, int64_t, Bracket&, uint8_t*);
void scan_bracket_avx2(const float*, int64_t, int64_t, Bracket&, uint8_t*);

}  // namespace billhook
