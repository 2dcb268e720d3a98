// A program from a file: its steps, checked, and its weights, packed for this processor.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "checks.h"
#include "container.h"
#include "ports.h"
#include "steps.h"
#include "u8_plan.h"

namespace billhook {

class Program {
 public:
  // Reads and checks everything but the weights' values. Takes memory in proportion to the file.
  explicit Program(const Container& file);
  // Packs the weights; the file is not used afterwards.
  void pack(const Container& file);

  const Needs& needs() const { return needs_; }
  const std::vector<Port>& inputs() const { return inputs_; }
  const std::vector<Port>& outputs() const { return outputs_; }
  int64_t isa() const { return isa_; }
  int64_t workspace() const { return workspace_; }  // floats
  // Samples that one run takes at most.
  int64_t at_once() const { return at_once_; }
  int64_t scratch(int slot) const { return scratch_[slot]; }
  // The buffer before the inputs.
  float* constants() const { return constants_; }
  // False if a sample has a number that 8 bits cannot represent.
  bool run(float* const* bases, int64_t samples, int64_t threads) const;

 private:
  void read_floats(const Container& file, const Value& run, const Limits& limits);
  void read_bytes(const Container& file, const Value& run, const Limits& limits);
  void read_constants(const Container& file, const Value& value, Checker& checker);
  void note(const Checker& checker);

  std::vector<Port> inputs_, outputs_;
  std::vector<Plan> plans_;
  std::vector<U8Plan> u8_plans_;
  std::vector<Step> steps_;
  std::vector<U8Step> u8_steps_;  // instead of the others, in 8 bits
  Needs needs_;
  int64_t isa_ = 0, workspace_ = 0, constants_size_ = 0, at_once_ = 1;
  float* constants_ = nullptr;
  std::vector<std::pair<std::string, int64_t>> constants_at_;
  int64_t scratch_[kSlots] = {};
  std::deque<std::vector<uint64_t>> held_;  // what steps point to
};

}  // namespace billhook
