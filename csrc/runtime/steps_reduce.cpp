// Normalisation, softmax and reductions.
#include "f32_reduce.h"

#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr std::string_view kExtents[] = {"across_channels", "across_rows", "within_row"};
constexpr std::string_view kReductions[] = {"mean", "sum", "max", "min"};

Whole elements(const Step& step) {
  return Whole(step.channels) * step.height * step.width;
}

void check_softmax(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.height, step.width, kRead);
  check.rows(step.y, step.channels, step.height, step.width, kWritten);
  check.work(16 * elements(step));
}

void check_normalise(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check_softmax(check, plan);
  const int64_t groups = step.size[0];
  require(step.function == kAcrossChannels || (groups > 0 && step.channels % groups == 0),
          "a step normalises groups that do not fit its channels");
  const int64_t numbers = step.function == kWithinRow ? step.width : step.channels;
  for (const View* vector : {&step.addend, &step.extra})
    if (vector->buffer >= 0) check.inside(*vector, 0, numbers, kRead);
}

void check_reduce(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.height, step.width, kRead);
  check.rows(step.y, 1, step.height, step.width, kWritten);
  check.work(elements(step));
}

constexpr Kind kKinds[] = {{"normalise", kNormalise, check_normalise, nullptr, kExtents},
                           {"softmax", kSoftmax, check_softmax, nullptr, kExtents},
                           {"reduce", kReduce, check_reduce, nullptr, kReductions}};

}  // namespace

std::span<const Kind> reduce_kinds() { return kKinds; }

}  // namespace billhook
