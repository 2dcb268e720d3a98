// A step in 8 bits as a program's text says it, before it is checked.
#pragma once
#include <string>

#include "json.h"
#include "u8_steps.h"

namespace billhook {

struct U8Kind;

// How a matrix is multiplied; nothing of it changes a result.
struct U8Kernel {
  std::string_view name;  // in files
  int64_t group;          // rows that share their columns, in blocks
  int64_t vector_group;   // in packs
  bool all, windows;      // all blocks; AVX512_VBMI's form where the processor has it
};

// The tensors of a matrix.
struct U8Weight {
  std::string tensor, bias, factors;
  const U8Kernel* kernel = nullptr;
  int64_t groups = 1;
};

struct U8Plan {
  const U8Kind* kind = nullptr;
  U8Step step{};
  U8Weight weight;
  std::string table, index;  // tensors of kU8Table and kU8Select
};

// Refusal where the text has another form, or a kind or setting that this runtime does not know. All
// whole numbers are from 0 to kMost, others finite as floats.
U8Plan read_u8_plan(const Value& step);

}  // namespace billhook
