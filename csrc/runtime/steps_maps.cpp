// Copies of planes, pools, means and sums.
#include <algorithm>

#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr int64_t kWidestVector = 16;

Whole pixels(const Step& step, int64_t height, int64_t width) {
  return Whole(step.channels) * height * width;
}

void copy(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.in_height, step.in_width, kRead);
  const Whole phases = Whole(step.stride_height) * step.stride_width;
  require(phases > 0 && phases <= kMost && step.y.pitch >= step.width && step.height > 0 &&
              step.width > 0,
          "a copy's stride does not fit");
  const int64_t phase = step.y.plane / static_cast<int64_t>(phases);
  check.inside(step.y, 0,
               Whole(step.channels - 1) * step.y.plane + (phases - 1) * phase +
                   Whole(step.height) * step.y.pitch,
               kWritten);
  check.work(pixels(step, step.in_height, step.in_width) +
             phases * step.channels * step.height * step.y.pitch);
}

void pool(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.in_height, step.in_width, kRead);
  check.planes(step.y, step.channels, step.height, step.width, kWritten);
  require(step.kernel_height > 0 && step.kernel_width > 0 && step.stride_height > 0 &&
              step.stride_width > 0,
          "a pool's window has no size");
  const Whole windows = step.width + kWidestVector;
  const Whole row = step.pad_left + step.in_width + windows * step.stride_width +
                       step.kernel_width + kWidestVector;
  check.room(0, row);
  check.room(1, windows);
  check.opening(row);
  const Whole rows = std::min(step.kernel_height, step.in_height);
  check.work(Whole(step.channels) * step.height *
             (rows * step.in_width + Whole(step.width) * step.kernel_width + row));
}

void mean(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.in_height, step.in_width, kRead);
  check.inside(step.y, 0, Whole(step.channels - 1) * step.y.plane + 1, kWritten);
  check.work(pixels(step, step.in_height, step.in_width));
}

void add(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.planes(step.x, step.channels, step.height, step.width, kRead);
  if (step.addend.buffer >= 0)
    check.planes(step.addend, step.channels, step.height, step.width, kRead);
  check.planes(step.y, step.channels, step.height, step.width, kWritten);
  check.work(2 * pixels(step, step.height, step.width));
}

constexpr Kind kKinds[] = {{"copy", kCopy, copy},
                           {"max_pool", kMaxPool, pool},
                           {"average_pool", kAvgPool, pool},
                           {"mean", kMean, mean},
                           {"add", kAdd, add}};

}  // namespace

std::span<const Kind> map_kinds() { return kKinds; }

}  // namespace billhook
