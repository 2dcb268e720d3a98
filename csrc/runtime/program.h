// A program from a file: its steps, checked, and its weights, packed for this processor.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "checks.h"
#include "container.h"
#include "ports.h"
#include "steps.h"

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
  const std::vector<Step>& steps() const { return steps_; }
  int64_t isa() const { return isa_; }
  int64_t workspace() const { return workspace_; }
  int64_t scratch(int slot) const { return scratch_[slot]; }
  // The buffer before the inputs.
  float* constants() const { return constants_; }

 private:
  void read_constants(const Container& file, const Value& value, Checker& checker);

  std::vector<Port> inputs_, outputs_;
  std::vector<Plan> plans_;
  std::vector<Step> steps_;
  Needs needs_;
  int64_t isa_ = 0, workspace_ = 0, constants_size_ = 0;
  float* constants_ = nullptr;
  std::vector<std::pair<std::string, int64_t>> constants_at_;
  int64_t scratch_[kSlots] = {};
  std::deque<std::vector<uint64_t>> held_;  // what steps point to
};

}  // namespace billhook
