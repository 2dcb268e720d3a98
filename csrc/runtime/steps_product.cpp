// Products of two computed matrices, and attention.
#include <algorithm>

#include "f32_product.h"
#include "isa.h"
#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr std::string_view kKeys[] = {"all", "causal"};
constexpr int64_t kSizes = 4;

// One after the last of elements i * step + ... for all i below their counts.
template <size_t N>
Whole reach(const int64_t (&counts)[N], const int64_t (&steps)[N]) {
  Whole last = 1;
  for (size_t i = 0; i < N; ++i) last += Whole(counts[i] - 1) * steps[i];
  return last;
}

void check_sizes(const Step& step) {
  require(std::all_of(step.size, step.size + kSizes, [](int64_t n) { return n > 0; }),
          "a product has a dimension of no size");
}

void check_matmul(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check_sizes(step);
  const int64_t g = step.size[0], m = step.size[1], k = step.size[2], n = step.size[3];
  check.inside(step.x, 0, reach({g, m, k}, {step.from[0], step.from[1], step.from[2]}), kRead);
  check.inside(step.addend, 0, reach({g, k, n}, {step.to[0], step.to[1], 1}), kRead);
  check.inside(step.y, 0, reach({g, m, n}, {step.to[2], step.to[3], 1}), kWritten);
  check.row_ends(step, step.channels);
  check.work(2 * Whole(g) * m * k * n);
}

void check_attention(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check_sizes(step);
  const int64_t heads = step.size[0], sources = step.size[1];
  require(heads % sources == 0 && step.width > 0 && step.in_width > 0 && step.from[2] <= 1,
          "the heads, tokens or mask of an attention do not fit");
  const auto planes = [&](const View& view, int64_t of_heads, int64_t features, int64_t tokens,
                          Access access) {
    const Whole last = (Whole(of_heads) * features - 1) * view.plane + tokens;
    check.inside(view, 0, last, access);
  };
  planes(step.x, heads, step.size[2], step.width, kRead);
  planes(step.addend, sources, step.size[2], step.in_width, kRead);
  planes(step.extra, sources, step.size[3], step.in_width, kRead);
  planes(step.y, heads, step.size[3], step.width, kWritten);
  if (step.mask.buffer >= 0)
    check.inside(step.mask, 0, reach({heads, step.in_width, step.width},
                                     {step.from[0], step.from[1], step.from[2]}),
                 kRead);
  check.row_ends(step, Whole(heads) * step.size[3]);
  const int64_t block =
      BILLHOOK_FP32(decltype(&portable::attention_block), attention_block, check.isa)();
  check.room(1, Whole(step.in_width) * block);
  const Whole products = Whole(heads) * step.width * step.in_width;
  require(products <= int64_t{1} << 62, "an attention takes longer than any program's");
  check.work(2 * products * (step.size[2] + step.size[3] + 16));
}

constexpr Kind kKinds[] = {{"matmul", kMatmul, check_matmul},
                           {"attention", kAttention, check_attention, nullptr, kKeys}};

}  // namespace

std::span<const Kind> product_kinds() { return kKinds; }

}  // namespace billhook
