#include "plan.h"

#include <algorithm>
#include <span>

#include "checks.h"
#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr std::string_view kActivationNames[] = {"none",        "relu",    "relu6", "hardswish",
                                                 "hardsigmoid", "sigmoid", "silu"};
static_assert(std::size(kActivationNames) == kConvActivations);

struct Number {
  std::string_view name;
  int64_t Step::*field;
};
constexpr Number kNumbers[] = {{"channels", &Step::channels},
                               {"in_height", &Step::in_height},
                               {"in_width", &Step::in_width},
                               {"height", &Step::height},
                               {"width", &Step::width},
                               {"kernel_height", &Step::kernel_height},
                               {"kernel_width", &Step::kernel_width},
                               {"stride_height", &Step::stride_height},
                               {"stride_width", &Step::stride_width},
                               {"pad_top", &Step::pad_top},
                               {"pad_left", &Step::pad_left},
                               {"count_padding", &Step::count_padding},
                               {"dims", &Step::dims},
                               {"pixels", &Step::pixels},
                               {"vectors", &Step::vectors},
                               {"packed", &Step::packed}};

struct NamedView {
  std::string_view name;
  View Step::*field;
};
constexpr NamedView kViews[] = {{"x", &Step::x},
                                {"y", &Step::y},
                                {"addend", &Step::addend},
                                {"extra", &Step::extra},
                                {"mask", &Step::mask}};

struct List {
  std::string_view name;
  int64_t (Step::*field)[kMaxDims];
};
constexpr List kLists[] = {{"size", &Step::size}, {"from", &Step::from}, {"to", &Step::to}};

// The entry of a table whose entries have names, null if there is none.
template <typename Entry, size_t N>
const Entry* entry_of(const Entry (&table)[N], std::string_view name) {
  const auto found =
      std::find_if(std::begin(table), std::end(table), [&](const Entry& e) { return e.name == name; });
  return found == std::end(table) ? nullptr : found;
}

int64_t place_of(std::span<const std::string_view> names, const std::string& name, const char* what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) refuse_unknown(what, name);
  return found - names.begin();
}

std::vector<int64_t> numbers(const Value& value, size_t count) {
  std::vector<int64_t> result;
  for (const Value& item : value.items()) result.push_back(item.number(0, kMost));
  require(result.size() == count, "its JSON has a list of another length than is meant");
  return result;
}

View read_view(const Value& value) {
  const std::vector<int64_t> n = numbers(value, 4);
  return {n[0], n[1], n[2], n[3]};
}

Taps read_taps(const Value& value) {
  const auto pair = [&](std::string_view name) { return numbers(value[name], 2); };
  Taps taps{};
  const auto stride = pair("stride"), dilation = pair("dilation"), padding = pair("padding");
  taps.stride_height = stride[0], taps.stride_width = stride[1];
  taps.dilation_height = dilation[0], taps.dilation_width = dilation[1];
  taps.pad_top = padding[0], taps.pad_left = padding[1];
  taps.groups = value["groups"].number(1, kMost);
  taps.plane = value["plane"].number(0, kMost);
  taps.pitch = value["pitch"].number(0, kMost);
  return taps;
}

// Whether a member belongs to a weight; then it is read.
bool read_weight(Weight& weight, const std::string& name, const Value& value) {
  if (name == "weight") {
    weight.tensor = value.text();
    weight.present = true;
  } else if (name == "bias") {
    weight.bias = value.text();
  } else if (name == "activation") {
    weight.activation = place_of(kActivationNames, value.text(), "activation");
  } else if (name == "first_column") {
    weight.first_column = value.number(0, kMost);
    weight.has_columns = true;
  } else if (name == "taps") {
    weight.taps = read_taps(value);
    weight.has_taps = true;
  } else {
    return false;
  }
  return true;
}

// Whether a member is a number, a view or a list of the step itself; then it is read.
bool read_own(Step& step, const std::string& name, const Value& value) {
  if (const Number* number = entry_of(kNumbers, name)) {
    step.*(number->field) = value.number(0, kMost);
  } else if (const NamedView* view = entry_of(kViews, name)) {
    step.*(view->field) = read_view(value);
  } else if (const List* list = entry_of(kLists, name)) {
    const std::vector<int64_t> own = numbers(value, kMaxDims);
    std::copy(own.begin(), own.end(), step.*(list->field));
  } else if (name == "parameters") {
    const std::vector<Value> own = value.items();
    require(own.size() == 2, "a step has another number of parameters than two");
    for (size_t i = 0; i < 2; ++i) step.parameters[i] = own[i].real();
  } else {
    return false;
  }
  return true;
}

}  // namespace

Plan read_plan(const Value& value) {
  Plan plan;
  Step& step = plan.step;
  std::string function;
  for (const NamedView& view : kViews) step.*(view.field) = {-1, 0, 0, 0};
  for (const auto& [name, part] : value.members()) {
    if (name == "op") {
      plan.kind = &kind_of(part.text());
    } else if (name == "function") {
      function = part.text();
    } else if (name == "keep") {
      const std::vector<int64_t> keep = numbers(part, 3);
      std::copy(keep.begin(), keep.end(), plan.keep);
    } else if (name == "fill") {
      for (const auto& [key, each] : part.members())
        require(read_weight(plan.fill, key, each), "a step fills panels by something unknown");
    } else if (!read_own(step, name, part) && !read_weight(plan.weight, name, part)) {
      refuse_unknown("setting", name);
    }
  }
  require(plan.kind != nullptr, "a step does not say what it does");
  step.op = plan.kind->op;
  step.activation = plan.weight.activation;
  const bool convolves = step.op == kSpmm || step.op == kDepthwise;
  require(step.activation < kActivations || convolves,
          "a step has an activation that only convolutions have");
  const auto& functions = plan.kind->functions;
  if (functions.empty())
    require(function.empty(), "a step has a function that it does not compute");
  else
    step.function = place_of(functions, function, "function");
  return plan;
}

}  // namespace billhook
