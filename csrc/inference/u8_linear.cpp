#include "u8_linear.h"

#include <algorithm>
#include <atomic>

#include "f32_panel.h"
#include "isa.h"
#include "parallel.h"
#include "u8_map.h"

namespace billhook {

U8Spmv u8s8_spmv_for(int64_t isa) {
  return version_for<U8Spmv>(isa, {{kPortable, portable::u8s8_spmv}
      BILLHOOK_X86({kAvx2, avx2::u8s8_spmv}, {kAvxVnni, avxvnni::u8s8_spmv},
                   {kAvx512Vnni, avx512vnni::u8s8_spmv})
      BILLHOOK_ARM({kNeonDot, neondot::u8s8_spmv})});
}

uint8_t* byte_scratch(U8Slot slot, int64_t bytes) {
  return reinterpret_cast<uint8_t*>(scratch(slot, (bytes + 3) / 4));
}

void u8_multiply(const U8Matrix& m, const uint8_t* x, float step, float* y, int64_t threads,
                 int64_t isa) {
#if defined(__x86_64__)
  if (m.vector_windows != nullptr)
    return parallel_ranges(m.vector_windows->packs, threads, [&](int64_t first, int64_t last) {
      avx512vbmi::u8s8_spmv(*m.vector_windows, first, last, x, step, y);
    });
#endif
  const U8Spmv spmv = u8s8_spmv_for(isa);
  parallel_ranges(m.vector->packs, threads, [&](int64_t first, int64_t last) {
    spmv(*m.vector, first, last, x, step, y);
  });
}

void u8_multiply_panel(const U8Matrix& m, const QuadPanel& panel, bool relu, float* y,
                       int64_t y_stride, int64_t threads, int64_t isa) {
  const U8Map& map = u8_map_for(isa);
  const int64_t lines = (panel.samples + kLine - 1) / kLine, width = kLine * lines;
  const bool windows = m.batch_windows != nullptr;
  const int64_t unit = windows ? 16 : std::max<int64_t>(m.batch->group, 4);
  const int64_t units = (m.rows + unit - 1) / unit;
  const U8SpmmTile spmm = u8s8_spmm_for(isa);
  const int64_t chunk = std::max<int64_t>(1, kChunkRows / unit), chunks = (units + chunk - 1) / chunk;
  parallel_for(chunks, threads, [&](int64_t c) {
    const int64_t begin = c * chunk, end = std::min(units, begin + chunk);
    const int64_t r0 = begin * unit, rows = std::min(m.rows, end * unit) - r0;
    float* sums = scratch(kSumsSlot, kChunkRows * width);
    QuadTile tile{};
    tile.x = panel.x;
    tile.x_plane = panel.plane;
    tile.floats = sums - r0 * width;
    tile.y_plane = width;
    tile.lines = lines;
#if defined(__x86_64__)
    if (windows) avx512vbmi::u8s8_spmm(*m.batch_windows, begin, end, tile);
#endif
    if (!windows) {
      const int64_t groups = unit / m.batch->group;
      spmm(*m.batch, begin * groups, std::min(end * groups, m.batch->groups), tile);
    }
    if (relu)
      for (int64_t i = 0; i < rows * width; ++i) sums[i] = sums[i] > 0.0f ? sums[i] : 0.0f;
    map.turn_back(sums, width, rows, panel.samples, panel.steps,
                  m.offset != nullptr ? m.offset + r0 : nullptr, y + r0, y_stride);
  });
}

}  // namespace billhook
