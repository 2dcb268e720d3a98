#include "f32_reduce.h"

#include <algorithm>

#include "f32_planes.h"
#include "isa.h"
#include "parallel.h"

namespace billhook {

namespace {

// Calls body(first pixel of x, of y, count) for the vectors of each row of a plane.
template <typename Body>
void for_columns(const Step& step, const Operands& at, int64_t rows, const Body& body) {
  const int64_t lanes = BILLHOOK_FP32(decltype(&portable::vector_lanes), vector_lanes, at.isa)();
  const int64_t blocks = (step.width + lanes - 1) / lanes;
  parallel_for(rows * blocks, at.threads, [&](int64_t task) {
    const int64_t i = task / blocks, j = task % blocks * lanes;
    body(i, j, std::min(lanes, step.width - j));
  });
}

}  // namespace

void run_normalise(const Step& step, const Operands& at) {
  if (step.function == kAcrossChannels) {
    const auto columns = BILLHOOK_FP32(decltype(&portable::normalise_columns), normalise_columns, at.isa);
    for_columns(step, at, step.height, [&](int64_t i, int64_t j, int64_t count) {
      columns(step, {at.x + i * step.x.pitch + j, at.addend, at.extra, at.y + i * step.y.pitch + j},
              count);
    });
  } else {
    const auto group = BILLHOOK_FP32(decltype(&portable::normalise_group), normalise_group, at.isa);
    const int64_t groups = step.size[0], planes = step.channels / groups;
    parallel_for(groups, at.threads, [&](int64_t g) {
      const int64_t c = g * planes;
      const auto own = [&](const float* p) {
        return p == nullptr || step.function == kWithinRow ? p : p + c;
      };
      group(step,
            {at.x + c * step.x.plane, own(at.addend), own(at.extra), at.y + c * step.y.plane},
            planes);
    });
  }
  clear_row_ends(step, at.y, step.channels);
}

void run_softmax(const Step& step, const Operands& at) {
  const auto columns = BILLHOOK_FP32(decltype(&portable::softmax_columns), softmax_columns, at.isa);
  const auto row = BILLHOOK_FP32(decltype(&portable::softmax_row), softmax_row, at.isa);
  const bool log = step.size[0] == 1;
  if (step.function == kAcrossChannels) {
    for_columns(step, at, step.height, [&](int64_t i, int64_t j, int64_t count) {
      const Reduced r{at.x + i * step.x.pitch + j, nullptr, nullptr, at.y + i * step.y.pitch + j};
      columns(r, step.x.plane, step.y.plane, step.channels, count, log);
    });
  } else if (step.function == kAcrossRows) {
    for_columns(step, at, step.channels, [&](int64_t c, int64_t j, int64_t count) {
      const Reduced r{at.x + c * step.x.plane + j, nullptr, nullptr, at.y + c * step.y.plane + j};
      columns(r, step.x.pitch, step.y.pitch, step.height, count, log);
    });
  } else {
    parallel_for(step.channels * step.height, at.threads, [&](int64_t task) {
      const int64_t c = task / step.height, i = task % step.height;
      row({at.x + c * step.x.plane + i * step.x.pitch, nullptr, nullptr,
           at.y + c * step.y.plane + i * step.y.pitch},
          step.width, log);
    });
  }
  clear_row_ends(step, at.y, step.channels);
}

void run_reduce(const Step& step, const Operands& at) {
  const auto columns = BILLHOOK_FP32(decltype(&portable::reduce_columns), reduce_columns, at.isa);
  for_columns(step, at, step.height, [&](int64_t i, int64_t j, int64_t count) {
    columns(step, at.x + i * step.x.pitch + j, at.y + i * step.y.pitch + j, count);
  });
  clear_row_ends(step, at.y, 1);
}

}  // namespace billhook
