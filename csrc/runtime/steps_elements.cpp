// Functions of one value or two, element by element.
#include <algorithm>

#include "f32_pointwise.h"
#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr std::string_view kUnary[] = {
    "affine", "clamp",     "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "silu",
    "tanh",   "gelu",      "gelu_tanh",  "exp",       "elu",         "abs",     "sqrt",
    "reciprocal", "mish",  "log",        "equal",     "choose"};
constexpr std::string_view kOfTwo[] = {"add",     "sub",   "mul",         "div", "maximum",
                                       "minimum", "prelu", "masked_fill", "lt",  "le",
                                       "eq",      "rsub",  "rdiv"};
static_assert(std::size(kUnary) == kFunctions && std::size(kOfTwo) == kBinaryFunctions);

void check_result(Checker& check, const Step& step) {
  check.rows(step.y, step.channels, step.height, step.width, kWritten);
  check.work(16 * Whole(step.channels) * step.height * step.width);
}

void check_fill(Checker& check, Plan& plan) { check_result(check, plan.step); }

void check_pointwise(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check_result(check, step);
  check.planes(step.x, step.channels, step.height, step.width, kRead);
}

void check_binary(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check_pointwise(check, plan);
  require(step.from[0] <= 1, "a function's second operand does not repeat as it can");
  check.planes(step.addend, step.channels, step.height, step.from[0] ? step.width : 1, kRead);
}

constexpr Kind kKinds[] = {{"fill", kFill, check_fill},
                           {"pointwise", kPointwise, check_pointwise, nullptr, kUnary},
                           {"binary", kBinary, check_binary, nullptr, kOfTwo}};

}  // namespace

std::span<const Kind> element_kinds() { return kKinds; }

}  // namespace billhook
