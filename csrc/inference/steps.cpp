#include "steps.h"

#include <algorithm>
#include <cstring>

#include "abi.h"
#include "f32_depthwise.h"
#include "isa.h"
#include "f32_panel.h"
#include "parallel.h"
#include "f32_planes.h"
#include "f32_pointwise.h"
#include "f32_pool.h"
#include "f32_product.h"
#include "f32_rearrange.h"
#include "f32_recurrent.h"
#include "f32_reduce.h"

namespace billhook {

namespace {

struct Context {
  float* const* bases;
  int64_t threads;
  int64_t isa;
  SpmmTile tile;
};

float* at(const View& view, const Context& context) {
  return view.buffer < 0 ? nullptr : context.bases[view.buffer] + view.offset;
}

// The operand of pixels [first, first + count): a panel, or the planes themselves.
const float* operand(const Step& step, const float* x, int64_t first, int64_t count,
                     SpmmTile tile) {
  if (!step.packed) return x + first;
  const int64_t width = 8 * step.vectors;
  float* panel = scratch(0, step.channels * width);
  if (step.depthwise.rows > 0) {
    const int64_t whole = (count + 7) / 8 * 8;
    tile(step.depthwise, 0, step.depthwise.rows,
         {x + first, 0, nullptr, nullptr, panel, 0, width, whole});
  } else {
    gather_panel(x + first, step.panel, step.channels, count, width, panel);
  }
  return panel;
}

void run_spmm(const Step& step, const Context& context) {
  const float* x = at(step.x, context);
  const float* addend = at(step.addend, context);
  float* y = at(step.y, context);
  // Tiles begin at whole vectors of the kernel, if they can: loads then cross no cache lines.
  const int64_t unit = step.vectors % 2 == 0 ? lanes_of(context.isa) : 8;
  const int64_t units = (step.pixels + unit - 1) / unit;
  const int64_t most = step.vectors * 8 / unit;
  const int64_t tiles = (units + most - 1) / most;
  const int64_t threads = context.threads;
  const int64_t parts = tiles >= 4 * threads ? 1 : threads;
  parallel_for(tiles * parts, threads, [&](int64_t task) {
    const int64_t index = task / parts, part = task % parts;
    const int64_t first = unit * (units * index / tiles);
    const int64_t last = std::min(unit * (units * (index + 1) / tiles), step.pixels);
    const Tile tile{operand(step, x, first, last - first, context.tile),
                    8 * step.vectors,
                    addend == nullptr ? nullptr : addend + first,
                    step.keep == nullptr ? nullptr : step.keep + first,
                    y + first,
                    step.addend.plane,
                    step.y.plane,
                    last - first};
    spmm_blocks(step.rows, split_rows(*step.rows.first, part, parts),
                split_rows(*step.rows.first, part + 1, parts), tile, context.tile);
  });
}

void run_depthwise(const Step& step, const Context& context) {
  const float* x = at(step.x, context);
  float* y = at(step.y, context);
  const auto plane = BILLHOOK_FP32(DepthwisePlane, depthwise_plane, context.isa);
  parallel_ranges(step.channels, context.threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c)
      plane(step, c, x + c * step.x.plane, y + c * step.y.plane);
  });
}

void run_planes(const Step& step, const Context& context) {
  const float* x = at(step.x, context);
  const float* addend = at(step.addend, context);
  float* y = at(step.y, context);
  const auto pool = BILLHOOK_FP32(PoolPlane, pool_plane, context.isa);
  const auto mean = BILLHOOK_FP32(PoolPlane, mean_plane, context.isa);
  const auto add = BILLHOOK_FP32(AddPlane, add_plane, context.isa);
  parallel_ranges(step.channels, context.threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const float* plane = x + c * step.x.plane;
      switch (step.op) {
        case kCopy: copy_phases(step, plane, y + c * step.y.plane); break;
        case kMaxPool:
        case kAvgPool: pool(step, plane, y + c * step.y.plane); break;
        case kMean: mean(step, plane, y + c * step.y.plane); break;
        default: {
          const float* other = addend == nullptr ? nullptr : addend + c * step.addend.plane;
          add(step, plane, other, y + c * step.y.plane);
        }
      }
    }
  });
}

void run_step(const Step& step, const Context& context) {
  const Operands operands{at(step.x, context),     at(step.addend, context),
                          at(step.extra, context), at(step.y, context),
                          context.threads,         context.isa};
  switch (step.op) {
    case kSpmm: return run_spmm(step, context);
    case kDepthwise: return run_depthwise(step, context);
    case kLinear:
      return spmv(step.lanes, operands.x, operands.addend, operands.y, context.threads,
                  context.isa);
    case kRearrange: return run_rearrange(step, operands);
    case kFill:
    case kPointwise:
    case kBinary: return run_pointwise(step, operands);
    case kNormalise: return run_normalise(step, operands);
    case kSoftmax: return run_softmax(step, operands);
    case kReduce: return run_reduce(step, operands);
    case kMatmul: return run_matmul(step, operands);
    case kAttention: return run_attention(step, operands, at(step.mask, context));
    case kEmbed: return run_embed(step, operands);
    case kCast: return run_cast(step, operands);
    case kResize: return run_resize(step, operands);
    case kLstm:
    case kGru: return run_recurrent(step, operands);
    default: return run_planes(step, context);
  }
}

}  // namespace

void run_steps(const Step* steps, int64_t count, float* const* bases, int64_t threads, int64_t isa) {
  const Context context{bases, threads, isa, spmm_tile_for(isa)};
  for (int64_t i = 0; i < count; ++i) run_step(steps[i], context);
}

}  // namespace billhook

#if !defined(BILLHOOK_RUNTIME)  // whose billhook_run is another

// Runs the steps for each of `samples` samples; buffer b of sample s starts sample_strides[b] bytes
// after that of sample s - 1 (0: a workspace that every sample uses anew).
BILLHOOK_API int64_t billhook_run(const billhook::Step* steps, int64_t count, char* const* buffers,
                               const int64_t* sample_strides, int64_t buffer_count,
                               int64_t samples, int64_t threads, int64_t isa) try {
  using namespace billhook;
  std::vector<float*> bases(static_cast<size_t>(buffer_count));
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t b = 0; b < buffer_count; ++b)
      bases[static_cast<size_t>(b)] =
          reinterpret_cast<float*>(buffers[b] + s * sample_strides[b]);
    run_steps(steps, count, bases.data(), threads, isa);
  }
  return 0;
} catch (...) {
  return billhook::failure();
}

#endif
