// Copies in another order, conversions, look-ups and interpolation.
#include <algorithm>

#include "f32_rearrange.h"
#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr std::string_view kNumbers[] = {"I64", "I32", "BOOL"};
constexpr std::string_view kGrids[] = {"centres", "corners"};
constexpr int64_t kMostIndices = 1 << 24;  // that fp32 tells apart
constexpr double kLargestScale = 1e6;

void check_rearrange(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  require(step.dims <= kMaxDims, "a copy has more dimensions than there are");
  Whole read = 1, written = 1, count = 1;
  for (int64_t d = 0; d < step.dims; ++d) {
    require(step.size[d] > 0, "a copy has a dimension of no size");
    read += Whole(step.size[d] - 1) * step.from[d];
    written += Whole(step.size[d] - 1) * step.to[d];
    count *= step.size[d];
    require(count <= kMost, "a copy is larger than any program's");
  }
  check.inside(step.x, 0, read, kRead);
  check.inside(step.y, 0, written, kWritten);
  check.row_ends(step, step.channels);
  check.work(2 * count);
}

void check_cast(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  check.integers(step.x, step.width, step.function);
  check.inside(step.y, 0, step.width, kWritten);
  check.work(2 * Whole(step.width));
}

void check_embed(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  require(step.width > 0 && step.channels > 0 && step.in_height > 0 && step.in_height < kMostIndices,
          "a table has no rows or columns, or more rows than are counted");
  check.inside(step.x, 0, step.width, kRead);
  check.inside(step.addend, 0,
               Whole(step.in_height - 1) * step.addend.pitch + step.channels, kRead);
  check.inside(step.y, 0, Whole(step.channels - 1) * step.y.plane + step.width,
               kWritten);
  check.row_ends(step, step.channels);
  check.work(2 * Whole(step.channels) * step.width);
}

void check_resize(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  for (const double scale : step.parameters)
    require(scale >= 0.0 && scale < kLargestScale, "an interpolation's scale does not fit");
  check.planes(step.x, step.channels, step.in_height, step.in_width, kRead);
  check.rows(step.y, step.channels, step.height, step.width, kWritten);
  check.room(0, step.in_width);
  check.room(1, 2 * Whole(step.width));
  check.work(Whole(step.channels) * step.height * (step.in_width + 2 * step.width));
}

constexpr Kind kKinds[] = {{"rearrange", kRearrange, check_rearrange},
                           {"cast", kCast, check_cast, nullptr, kNumbers},
                           {"embed", kEmbed, check_embed},
                           {"resize", kResize, check_resize, nullptr, kGrids}};

}  // namespace

std::span<const Kind> rearrange_kinds() { return kKinds; }

}  // namespace billhook
