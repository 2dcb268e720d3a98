#include "u8_plan.h"

#include <algorithm>
#include <cmath>

#include "checks.h"
#include "kinds.h"
#include "refusal.h"
#include "u8_kinds.h"

namespace billhook {

namespace {

constexpr double kLargest = 1e38;  // that a float holds

constexpr U8Kernel kKernels[] = {{"1x4", 1, 1, false, false},
                                 {"4x4", 4, 4, false, false},
                                 {"8x4", 8, 8, false, false},
                                 {"16x4", 16, 16, false, false},
                                 {"all_blocks", 4, 16, true, false},
                                 {"windows", 1, 1, false, true}};

constexpr std::pair<std::string_view, int64_t U8Step::*> kNumbers[] = {
    {"channels", &U8Step::channels},
    {"first", &U8Step::first},
    {"pixels", &U8Step::pixels},
    {"gather", &U8Step::gather},
    {"lines", &U8Step::lines},
    {"count_padding", &U8Step::count_padding},
    {"relu", &U8Step::relu},
    {"by_sample", &U8Step::by_sample},
    {"by_channel", &U8Step::by_channel},
    {"selected", &U8Step::selected},
    {"zero", &U8Step::zero},
    {"addend_zero", &U8Step::addend_zero}};

constexpr std::pair<std::string_view, U8View U8Step::*> kViews[] = {
    {"x", &U8Step::x}, {"y", &U8Step::y}, {"addend", &U8Step::addend}};

constexpr std::pair<std::string_view, double U8Step::*> kReals[] = {
    {"scale", &U8Step::scale}, {"addend_scale", &U8Step::addend_scale}, {"shift", &U8Step::shift}};

constexpr std::pair<std::string_view, std::string U8Weight::*> kTensors[] = {
    {"weight", &U8Weight::tensor}, {"bias", &U8Weight::bias}, {"factors", &U8Weight::factors}};

constexpr std::pair<std::string_view, int64_t Window2d::*> kWindow[] = {
    {"in_height", &Window2d::in_height},         {"in_width", &Window2d::in_width},
    {"height", &Window2d::height},               {"width", &Window2d::width},
    {"kernel_height", &Window2d::kernel_height}, {"kernel_width", &Window2d::kernel_width},
    {"stride_height", &Window2d::stride_height}, {"stride_width", &Window2d::stride_width},
    {"dilation_height", &Window2d::dilation_height},
    {"dilation_width", &Window2d::dilation_width},
    {"pad_top", &Window2d::pad_top},             {"pad_left", &Window2d::pad_left},
    {"zero", &Window2d::zero}};

// The member of `owner` that a table has by this name, null if none.
template <typename Owner, typename Member, size_t N>
Member* member_of(Owner& owner, const std::pair<std::string_view, Member Owner::*> (&table)[N],
                  std::string_view name) {
  const auto found = std::find_if(std::begin(table), std::end(table),
                                  [&](const auto& each) { return each.first == name; });
  return found == std::end(table) ? nullptr : &(owner.*(found->second));
}

U8View read_view(const Value& value) {
  const std::vector<Value> items = value.items();
  require(items.size() == 3, "its JSON has a list of another length than is meant");
  return {items[0].number(0, kMost), items[1].number(0, kMost), items[2].number(0, kMost)};
}

void read_window(const Value& value, Window2d& window) {
  for (const auto& [name, part] : value.members()) {
    int64_t* number = member_of(window, kWindow, name);
    if (number == nullptr) refuse_unknown("setting of windows", name);
    *number = part.number(0, kMost);
  }
}

const U8Kernel& kernel_of(const std::string& name) {
  const auto found = std::find_if(std::begin(kKernels), std::end(kKernels),
                                  [&](const U8Kernel& each) { return each.name == name; });
  if (found == std::end(kKernels)) refuse_unknown("kernel", name);
  return *found;
}

// Whether a member is read.
bool read_member(U8Plan& plan, const std::string& name, const Value& value) {
  if (int64_t* number = member_of(plan.step, kNumbers, name)) {
    *number = value.number(0, kMost);
  } else if (U8View* view = member_of(plan.step, kViews, name)) {
    *view = read_view(value);
  } else if (double* real = member_of(plan.step, kReals, name)) {
    *real = value.real();
    require(std::fabs(*real) < kLargest, "a step has a factor that is no finite float");
  } else if (std::string* tensor = member_of(plan.weight, kTensors, name)) {
    *tensor = value.text();
  } else if (name == "table" || name == "index") {
    (name == "table" ? plan.table : plan.index) = value.text();
  } else if (name == "kernel") {
    plan.weight.kernel = &kernel_of(value.text());
  } else if (name == "groups") {
    plan.weight.groups = value.number(1, kMost);
  } else if (name == "window") {
    read_window(value, plan.step.window);
  } else {
    return false;
  }
  return true;
}

}  // namespace

U8Plan read_u8_plan(const Value& value) {
  U8Plan plan;
  for (const auto& each : kViews) plan.step.*(each.second) = {-1, 0, 0};
  for (const auto& [name, part] : value.members()) {
    if (name == "op")
      plan.kind = &u8_kind_of(part.text());
    else if (!read_member(plan, name, part))
      refuse_unknown("setting", name);
  }
  require(plan.kind != nullptr, "a step does not say what it does");
  plan.step.op = plan.kind->op;
  return plan;
}

}  // namespace billhook
