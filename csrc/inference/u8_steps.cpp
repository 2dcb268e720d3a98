#include "u8_steps.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "abi.h"
#include "f32_panel.h"
#include "isa.h"
#include "parallel.h"

namespace billhook {

U8SpmmTile u8s8_spmm_for(int64_t isa) {
  return version_for<U8SpmmTile>(isa, {{kPortable, portable::u8s8_spmm}
      BILLHOOK_X86({kAvx2, avx2::u8s8_spmm}, {kAvxVnni, avxvnni::u8s8_spmm},
                   {kAvx512Vnni, avx512vnni::u8s8_spmm})
      BILLHOOK_ARM({kNeonDot, neondot::u8s8_spmm})});
}

U8Depthwise u8s8_depthwise_for(int64_t isa) {
  return version_for<U8Depthwise>(isa, {{kPortable, portable::u8s8_depthwise}
      BILLHOOK_X86({kAvx2, avx2::u8s8_depthwise}, {kAvxVnni, avxvnni::u8s8_depthwise},
                   {kAvx512Vnni, avx512vnni::u8s8_depthwise})
      BILLHOOK_ARM({kNeonDot, neondot::u8s8_depthwise})});
}

const U8Map& u8_map_for(int64_t isa) {
  return *version_for<const U8Map*>(isa, {{kPortable, &portable::u8_map}
      BILLHOOK_X86({kAvx2, &avx2::u8_map}, {kAvxVnni, &avxvnni::u8_map},
                   {kAvx512Vnni, &avx512vnni::u8_map})
      BILLHOOK_ARM({kNeonDot, &neondot::u8_map})});
}

int64_t split_groups(const BlockRows& rows, int64_t part, int64_t parts) {
  if (part >= parts) return rows.groups;
  const int64_t target = static_cast<int64_t>(rows.ptr[rows.groups]) * part / parts;
  const int64_t group = std::lower_bound(rows.ptr, rows.ptr + rows.groups, target) - rows.ptr;
  return rows.group == 1 ? group / 4 * 4 : group;
}

namespace {

struct Context {
  uint8_t* const* bases;
  int64_t threads;
  int64_t isa;
  const U8Map& map;
};

uint8_t* at(const U8View& view, const Context& context) {
  return view.buffer < 0 ? nullptr : context.bases[view.buffer] + view.offset;
}

// The groups of rows, or packs, of one part of a product.
void multiply_part(const U8Step& step, int64_t part, int64_t parts, const QuadTile& tile,
                   U8SpmmTile kernel) {
#if defined(__x86_64__)
  if (step.windows != nullptr) {
    const int64_t packs = step.windows->packs;
    return avx512vbmi::u8s8_spmm(*step.windows, packs * part / parts, packs * (part + 1) / parts,
                                 tile);
  }
#endif
  kernel(*step.rows, split_groups(*step.rows, part, parts),
         split_groups(*step.rows, part + 1, parts), tile);
}

void run_conv(const U8Step& step, const Context& context) {
  const uint8_t* x = at(step.x, context);
  const uint8_t* addend = at(step.addend, context);
  uint8_t* y = at(step.y, context);
  const U8SpmmTile kernel = u8s8_spmm_for(context.isa);
  const int64_t lines = (step.pixels + kLine - 1) / kLine;
  const int64_t tiles = (lines + step.lines - 1) / step.lines;
  const int64_t threads = context.threads;
  const int64_t parts = threads == 1 || tiles >= 4 * threads ? 1 : threads;
  const int64_t quads = (step.channels + 3) / 4;
  const int64_t taps = step.window.kernel_height * step.window.kernel_width;
  parallel_for(tiles * parts, threads, [&](int64_t task) {
    const int64_t index = task / parts;
    const int64_t begin = lines * index / tiles, end = lines * (index + 1) / tiles;
    const int64_t first = kLine * begin, width = kLine * (end - begin);
    QuadTile tile{};
    tile.x = x + 4 * first;
    tile.x_plane = step.x.plane;
    if (step.gather != 0) {
      uint8_t* panel = byte_scratch(kPanelSlot, 4 * width * quads * taps + kSlack);
      context.map.gather(step.window, x, step.x.plane, quads, first,
                         std::min(width, step.pixels - first), panel, width);
      tile.x = panel;
      tile.x_plane = 4 * width;
    }
    tile.addend = addend == nullptr ? nullptr : addend + 4 * first;
    tile.addend_plane = step.addend.plane;
    tile.addend_scale = static_cast<float>(step.addend_scale);
    tile.bytes = y + 4 * first;
    tile.y_plane = step.y.plane;
    tile.lines = end - begin;
    multiply_part(step, task % parts, parts, tile, kernel);
  });
}

// One quad of a map as fp32, `y_channel` floats from channel to channel and `y_pixel` from pixel to pixel.
void dequantise(const uint8_t* x, int64_t channels, int64_t pixels, float zero, float step,
                float* y, int64_t y_channel, int64_t y_pixel) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t p = 0; p < pixels; ++p)
      y[c * y_channel + p * y_pixel] = (static_cast<float>(x[4 * p + c]) - zero) * step;
}

void multiply_quad(const U8Step& step, const Context& context, const uint8_t* x,
                   const uint8_t* addend, uint8_t* y) {
  const U8Product product{static_cast<float>(step.zero), static_cast<float>(step.addend_zero),
                          static_cast<float>(step.scale), static_cast<float>(step.shift)};
  context.map.multiply(x, addend, step.by_channel != 0, product, 4 * step.pixels, y);
}

// One quad of a map.
void run_quad(const U8Step& step, const Context& context, int64_t q, const uint8_t* x,
              const uint8_t* addend, uint8_t* y) {
  const auto scale = static_cast<float>(step.scale), shift = static_cast<float>(step.shift);
  const int64_t channels = std::min<int64_t>(4, step.channels - 4 * q);
  switch (step.op) {
    case kU8Dequantise: {
      const int64_t channel = step.by_sample != 0 ? 1 : step.pixels;
      dequantise(x, channels, step.pixels, shift, scale, reinterpret_cast<float*>(y) + 4 * q * channel,
                 channel, step.by_sample != 0 ? step.channels : 1);
      break;
    }
    case kU8MaxPool: context.map.max_pool(step.window, x, y + q * step.y.plane); break;
    case kU8AveragePool:
      context.map.average_pool(step.window, step.count_padding != 0, x, y + q * step.y.plane);
      break;
    case kU8Mean: context.map.mean(x, step.pixels, scale, shift, y + 4 * q); break;
    case kU8Add:
      context.map.add(x, scale, addend, static_cast<float>(step.addend_scale), shift,
                      4 * step.pixels, y + q * step.y.plane);
      break;
    case kU8Table:
      context.map.look_up(step.table, x, 4 * step.pixels, y + q * step.y.plane);
      break;
    case kU8Multiply: multiply_quad(step, context, x, addend, y + q * step.y.plane); break;
    case kU8Copy:
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t to = step.first + 4 * q + c;
        uint8_t* out = y + to / 4 * step.y.plane + to % 4;
        for (int64_t p = 0; p < step.pixels; ++p) out[4 * p] = x[4 * p + c];
      }
      break;
    default:  // kU8Flatten
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < step.pixels; ++p)
          y[(4 * q + c) * step.pixels + p] = x[4 * p + c];
  }
}

void run_depthwise(const U8Step& step, const Context& context) {
  const QuadMaps maps{at(step.x, context), step.x.plane, at(step.y, context), step.y.plane};
  const U8Depthwise kernel = u8s8_depthwise_for(context.isa);
  parallel_ranges((step.channels + 3) / 4, context.threads, [&](int64_t first, int64_t last) {
    kernel(step.window, *step.depthwise, maps, first, last);
  });
}

void run_quads(const U8Step& step, const Context& context) {
  const uint8_t* x = at(step.x, context);
  const uint8_t* addend = at(step.addend, context);
  uint8_t* y = at(step.y, context);
  // Copies to positions within quads share these quads.
  const int64_t threads = step.op == kU8Copy ? 1 : context.threads;
  parallel_ranges((step.channels + 3) / 4, threads, [&](int64_t first, int64_t last) {
    for (int64_t q = first; q < last; ++q)
      run_quad(step, context, q, x + q * step.x.plane,
               addend == nullptr ? nullptr : addend + q * step.addend.plane, y);
  });
}

// Channels of a map in another order.
void run_select(const U8Step& step, const Context& context) {
  const uint8_t* x = at(step.x, context);
  uint8_t* y = at(step.y, context);
  parallel_ranges((step.selected + 3) / 4, context.threads, [&](int64_t first, int64_t last) {
    for (int64_t q = first; q < last; ++q) {
      const int64_t channels = std::min<int64_t>(4, step.selected - 4 * q);
      const uint8_t* from[4];
      for (int64_t c = 0; c < 4; ++c) {
        const int64_t source = step.index[4 * q + std::min(c, channels - 1)];
        from[c] = x + source / 4 * step.x.plane + source % 4;
      }
      context.map.select(from, channels, step.pixels, y + q * step.y.plane);
    }
  });
}

// Rows of samples to a map whose pixels they are; eight at a time, so that their bytes stay near.
bool quantise_rows(const U8Step& step, const Context& context) {
  const auto* x = reinterpret_cast<const float*>(at(step.x, context));
  uint8_t* y = at(step.y, context);
  const int64_t quads = (step.channels + 3) / 4, groups = (step.pixels + 7) / 8;
  std::atomic<bool> finite{true};
  parallel_ranges(groups, context.threads, [&](int64_t first, int64_t last) {
    uint8_t* bytes = byte_scratch(kBytesSlot, 8 * 4 * quads + kSlack);
    std::fill(bytes, bytes + 8 * 4 * quads, uint8_t{0});
    for (int64_t s = 8 * first; s < std::min(8 * last, step.pixels); s += 8) {
      const int64_t count = std::min<int64_t>(8, step.pixels - s);
      for (int64_t i = 0; i < count; ++i)
        if (!context.map.quantise_vector(x + (s + i) * step.channels, step.channels,
                                         static_cast<float>(step.scale),
                                         static_cast<float>(step.shift), bytes + 4 * quads * i))
          finite = false;
      context.map.turn(bytes, 4 * quads, count, quads, y + 4 * s, step.y.plane / 4);
    }
  });
  return finite;
}

bool run_quantise(const U8Step& step, const Context& context) {
  if (step.by_sample != 0) return quantise_rows(step, context);
  const auto* x = reinterpret_cast<const float*>(at(step.x, context));
  uint8_t* y = at(step.y, context);
  bool finite = true;
  for (int64_t q = 0; 4 * q < step.channels; ++q)
    finite &= context.map.quantise(x + 4 * q * step.pixels, step.pixels,
                                   std::min<int64_t>(4, step.channels - 4 * q), step.pixels,
                                   static_cast<float>(step.scale), static_cast<float>(step.shift),
                                   y + q * step.y.plane);
  return finite;
}

void run_linear(const U8Step& step, const Context& context) {
  auto* y = reinterpret_cast<float*>(at(step.y, context));
  if (step.matrix->vector == nullptr && step.matrix->vector_windows == nullptr) {
    float* steps = scratch(kStepSlot, step.pixels);
    std::fill(steps, steps + step.pixels, 1.0f);
    const QuadPanel panel{at(step.x, context), step.x.plane, step.pixels, steps};
    return u8_multiply_panel(*step.matrix, panel, step.relu != 0, y, step.matrix->rows,
                             context.threads, context.isa);
  }
  u8_multiply(*step.matrix, at(step.x, context), 1.0f, y, context.threads, context.isa);
  if (step.relu != 0)
    for (int64_t r = 0; r < step.matrix->rows; ++r) y[r] = y[r] > 0.0f ? y[r] : 0.0f;
}

// Returns whether fp32 that was read was finite.
bool run_step(const U8Step& step, const Context& context) {
  switch (step.op) {
    case kU8Quantise: return run_quantise(step, context);
    case kU8QuantiseVector:
      return context.map.quantise_vector(reinterpret_cast<const float*>(at(step.x, context)),
                                         step.channels, static_cast<float>(step.scale),
                                         static_cast<float>(step.shift), at(step.y, context));
    case kU8Conv: run_conv(step, context); break;
    case kU8Depthwise: run_depthwise(step, context); break;
    case kU8Linear: run_linear(step, context); break;
    case kU8Select: run_select(step, context); break;
    default: run_quads(step, context);
  }
  return true;
}

}  // namespace

bool run_u8_steps(const U8Step* steps, int64_t count, uint8_t* const* bases, int64_t pixels,
                  int64_t threads, int64_t isa) {
  const Context context{bases, threads, isa, u8_map_for(isa)};
  for (int64_t i = 0; i < count; ++i) {
    U8Step step = steps[i];
    if (pixels != 0) step.pixels = pixels;
    if (!run_step(step, context)) return false;
  }
  return true;
}

}  // namespace billhook

// Runs the steps for each of `samples` samples; buffer b of sample s starts `s * sample_strides[b]`
// bytes after buffers[b] (0: a workspace that every sample uses anew). Returns 1, or 0 if a sample
// had values that are not finite, after which the results are undefined. `pixels` is 0, or how many of
// its pixels each step works on: for maps whose pixels are samples, where there are fewer than planned.
BILLHOOK_API int64_t billhook_u8_run(const billhook::U8Step* steps, int64_t count,
                                     uint8_t* const* buffers, const int64_t* sample_strides,
                                     int64_t buffer_count, int64_t samples, int64_t pixels,
                                     int64_t threads, int64_t isa) try {
  std::vector<uint8_t*> bases(static_cast<size_t>(buffer_count));
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t b = 0; b < buffer_count; ++b)
      bases[static_cast<size_t>(b)] = buffers[b] + s * sample_strides[b];
    if (!billhook::run_u8_steps(steps, count, bases.data(), pixels, threads, isa)) return 0;
  }
  return 1;
} catch (...) {
  return billhook::failure();
}
