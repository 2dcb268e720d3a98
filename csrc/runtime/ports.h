// The inputs and outputs of a program.
#pragma once
#include <string>
#include <vector>

#include "checks.h"
#include "json.h"

namespace billhook {

struct Port {
  std::string name, dtype;
  int64_t number;  // kFloats or a Number
  std::vector<int64_t> shape;
  int64_t elements, bytes;  // of one sample
  int64_t axis;
  bool merged;
};

// Refusal of what this runtime does not run.
std::vector<Port> read_inputs(const Value& value);
std::vector<Port> read_outputs(const Value& value);

}  // namespace billhook
