// Exact selection of the largest scores or magnitudes: the counts that one pass over the elements gives.
#pragma once
#include <cstdint>
#include <vector>

#include "raw.h"

namespace billhook {

struct Candidate {
  int64_t index;
  int32_t key;
};

// Keys between which the threshold very probably lies, both included.
struct Bracket {
  int32_t low, high;
};

struct Found {
  std::vector<Candidate> candidates;  // the elements in the bracket, in order
  int64_t above = 0;                  // elements with keys above it
  bool nan = false;

  void add(const Candidate* first, int64_t count);  // no vector code in files of one instruction set
};

// Of elements begin to end (begin a multiple of 8), writes the mask bits of those above the bracket
// and adds to `found`; gives up once that has more than `room` candidates.
using Scan = void (*)(const Raw& raw, int64_t begin, int64_t end, Bracket bracket, int64_t room,
                      Found& found, uint8_t* bits);
Scan scan_portable(Kind kind);
Scan scan_avx2(Kind kind);

}  // namespace billhook
