#include "f32_spmv.h"

#include <algorithm>

#include "abi.h"
#include "isa.h"
#include "f32_panel.h"
#include "parallel.h"

namespace billhook {

void spmv(const LaneRows& w, const float* x, const float* addend, float* y, int64_t threads,
          int64_t isa) {
  const auto groups = BILLHOOK_FP32(SpmvGroups, spmv_groups, isa);
  float* operand = scratch(2, w.columns + 1);
  std::copy(x, x + w.columns, operand);
  operand[w.columns] = 0.0f;
  if (threads <= 1) return groups(w, 0, w.groups, operand, addend, y);
  const int64_t parts = 4 * threads;
  const int64_t steps = w.group_ptr[w.groups];
  const auto start_of = [&](int64_t part) -> int64_t {
    if (part >= parts) return w.groups;
    return std::lower_bound(w.group_ptr, w.group_ptr + w.groups, steps * part / parts) -
           w.group_ptr;
  };
  parallel_for(parts, threads, [&](int64_t part) {
    groups(w, start_of(part), start_of(part + 1), operand, addend, y);
  });
}

}  // namespace billhook

// y[s] = w * x[s] for each of `samples` rows, one after another.
BILLHOOK_API int64_t billhook_spmv(const billhook::LaneRows* rows, const float* x, int64_t x_stride,
                                float* y, int64_t y_stride, int64_t samples, int64_t threads,
                                int64_t isa) try {
  for (int64_t s = 0; s < samples; ++s)
    billhook::spmv(*rows, x + s * x_stride, nullptr, y + s * y_stride, threads, isa);
  return 0;
} catch (...) {
  return billhook::failure();
}
