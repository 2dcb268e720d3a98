// What the runtime knows of each kind of step in 8 bits: a table, whose rows stand in u8_kinds_*.cpp.
#pragma once
#include <span>
#include <string_view>

#include "checks.h"
#include "packer.h"
#include "u8_plan.h"

namespace billhook {

struct U8Kind {
  std::string_view name;  // in files
  U8Op op;
  // Refusal unless the step is sound, whatever its numbers are.
  void (*check)(Checker&, U8Plan&);
  // Gives the step what it points to; null where it points to nothing.
  void (*pack)(Packer&, U8Plan&) = nullptr;
  bool on_pixels = false;  // whether it may run on fewer pixels than planned
};

std::span<const U8Kind> u8_map_kinds();
std::span<const U8Kind> u8_matrix_kinds();

// The kind of that name; Refusal if there is none.
const U8Kind& u8_kind_of(const std::string& name);

// What the checks are made of. Each is a Refusal unless it holds; kernels read and write whole lines.
void check_map(const Checker& check, const U8View& view, int64_t channels, Whole pixels,
               Access access);
void check_bytes(const Checker& check, const U8View& view, Whole count, Access access);
void check_floats(const Checker& check, const U8View& view, Whole count, Access access);
// The window's sizes, and that no place it leads to is further than is counted.
void check_window(const Window2d& window);

}  // namespace billhook
