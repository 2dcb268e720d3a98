// What the runtime knows of each kind of step: a table, whose rows stand in steps_*.cpp.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "checks.h"
#include "packer.h"
#include "plan.h"

namespace billhook {

struct Kind {
  std::string_view name;  // in files
  Op op;
  // Refusal unless the step is sound, whatever its numbers are.
  void (*check)(Checker&, Plan&);
  // Gives the step what it points to; null where it points to nothing.
  void (*pack)(Packer&, Plan&) = nullptr;
  std::span<const std::string_view> functions = {};  // the names of what it may compute, if any
};

// The families, each in the file of its name.
std::span<const Kind> map_kinds();
std::span<const Kind> convolution_kinds();
std::span<const Kind> matrix_kinds();
std::span<const Kind> element_kinds();
std::span<const Kind> rearrange_kinds();
std::span<const Kind> reduce_kinds();
std::span<const Kind> product_kinds();

// The kind of that name; Refusal if there is none.
const Kind& kind_of(const std::string& name);

// Refusal of what a newer runtime may know.
[[noreturn]] void refuse_unknown(const char* what, const std::string& name);

}  // namespace billhook
