#include "f32_pointwise.h"

#include <algorithm>

#include "isa.h"
#include "parallel.h"

namespace billhook {

void run_pointwise(const Step& step, const Operands& at) {
  const auto unary = BILLHOOK_FP32(PointwiseRow, pointwise_row, at.isa);
  const auto binary = BILLHOOK_FP32(BinaryRow, binary_row, at.isa);
  parallel_ranges(step.channels * step.height, at.threads, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t c = row / step.height, i = row % step.height;
      const float* x = at.x + c * step.x.plane + i * step.x.pitch;
      float* y = at.y + c * step.y.plane + i * step.y.pitch;
      if (step.op == kFill)
        std::fill(y, y + step.width, static_cast<float>(step.parameters[0]));
      else if (step.op == kPointwise)
        unary(step, x, y, step.width);
      else
        binary(step, x, at.addend + c * step.addend.plane + i * step.addend.pitch, y, step.width);
      if (step.y.pitch > step.width) std::fill(y + step.width, y + step.y.pitch, 0.0f);
    }
  });
}

}  // namespace billhook
