#include "f32_product.h"

#include <algorithm>

#include "f32_planes.h"
#include "isa.h"
#include "parallel.h"

namespace billhook {

void run_matmul(const Step& step, const Operands& at) {
  const auto multiply = BILLHOOK_FP32(decltype(&portable::product), product, at.isa);
  const int64_t groups = step.size[0], rows = step.size[1];
  constexpr int64_t kPart = 64;  // rows of a task
  const int64_t parts = (rows + kPart - 1) / kPart;
  parallel_for(groups * parts, at.threads, [&](int64_t task) {
    const int64_t g = task / parts, m = task % parts * kPart;
    multiply({at.x + g * step.from[0] + m * step.from[1], step.from[1], step.from[2],
              std::min(kPart, rows - m), at.addend + g * step.to[0], step.to[1], step.size[2],
              at.y + g * step.to[2] + m * step.to[3], step.to[3], step.size[3]});
  });
  clear_row_ends(step, at.y, step.channels);
}

void run_attention(const Step& step, const Operands& at, const float* mask) {
  const auto attend = BILLHOOK_FP32(decltype(&portable::attend), attend, at.isa);
  const int64_t block =
      BILLHOOK_FP32(decltype(&portable::attention_block), attention_block, at.isa)();
  const int64_t heads = step.size[0], shared = heads / step.size[1];
  const int64_t blocks = (step.width + block - 1) / block;
  parallel_for(heads * blocks, at.threads, [&](int64_t task) {
    const int64_t h = task / blocks, first = task % blocks * block, source = h / shared;
    attend(step, {at.x + h * step.size[2] * step.x.plane,
                  at.addend + source * step.size[2] * step.addend.plane,
                  at.extra + source * step.size[3] * step.extra.plane,
                  mask == nullptr ? nullptr : mask + h * step.from[0],
                  at.y + h * step.size[3] * step.y.plane, first,
                  std::min(block, step.width - first)});
  });
  clear_row_ends(step, at.y, heads * step.size[3]);
}

}  // namespace billhook
