// A step as a program's text says it, before it is checked.
#pragma once
#include <string>

#include "f32_pack.h"
#include "json.h"
#include "steps.h"

namespace billhook {

struct Kind;

// The tensors of a matrix, and how its nonzeros find their operands.
struct Weight {
  std::string tensor, bias;
  int64_t activation = 0;
  int64_t first_column = 0;  // of a block of columns, if has_columns
  Taps taps{};               // of convolutions that read planes or gather panels
  bool present = false, has_taps = false, has_columns = false;
};

// A step, its kind, and what its weights are made of.
struct Plan {
  const Kind* kind = nullptr;
  Step step{};
  Weight weight, fill;
  int64_t keep[3] = {0, 0, 0};  // height, width and pitch of the mask, if any
};

// Refusal where the text has another form, or a kind or setting that this runtime does not know. All
// whole numbers are from 0 to kMost.
Plan read_plan(const Value& step);

}  // namespace billhook
