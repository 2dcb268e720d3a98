// A program from a file: its steps, checked, and its weights, packed for this processor.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "container.h"
#include "f32_pack.h"
#include "f32_panel.h"
#include "json.h"
#include "steps.h"

namespace billhook {

struct Port {
  std::string name, dtype;
  std::vector<int64_t> shape;
  int64_t elements;
};

// A step, and what its weights are made of.
struct Plan {
  struct Weight {
    std::string tensor, bias;
    int64_t activation = 0;
    Taps taps{};  // of convolutions that read planes or gather panels
    bool present = false, has_taps = false;
  };
  Step step{};
  Weight weight, fill;
  int64_t keep[3] = {0, 0, 0};  // height, width and pitch of the mask, if any
};

struct Needs {
  int64_t weights = 0, packing = 0, session = 0, thread = 0;  // bytes, as in billhook.h
};

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
  void read_constants(const Container& file, const Value& value);
  const float* bias(const Container& file, const Plan::Weight& weight);
  void pack_lanes(const Container& file, Plan& plan);
  void pack_panels(const Container& file, Plan& plan);
  SparseRows pack_planes(const Container& file, const Plan::Weight& weight);
  void pack_depthwise(const Container& file, Plan& plan);
  void pack_keep(Plan& plan);
  template <typename T>
  T* take(int64_t count);

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
