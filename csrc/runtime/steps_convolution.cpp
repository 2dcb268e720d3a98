// Convolutions: sparse products over planes or panels, and depthwise ones.
#include <algorithm>

#include "f32_depthwise.h"
#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr int64_t kMaxVectors = 16;

Whole rounded(Whole value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Completes the taps of a weight from its shape.
void check_taps(const Checker& check, Weight& weight, int64_t columns) {
  Taps& taps = weight.taps;
  require(weight.has_taps, "a convolution does not say how it reads its planes");
  const std::vector<int64_t>& shape = check.tensor(weight).shape;
  taps.inputs = shape[1];
  taps.kernel_height = shape[2];
  taps.kernel_width = shape[3];
  require(taps.stride_height > 0 && taps.stride_width > 0 && taps.dilation_height > 0 &&
              taps.dilation_width > 0 && taps.groups > 0 && shape[0] % taps.groups == 0,
          "a convolution's stride, dilation or groups do not fit");
  const Whole channels = Whole(taps.inputs) * taps.groups;
  const Whole phases = Whole(taps.stride_height) * taps.stride_width;
  const Whole down =
      Whole(taps.kernel_height) * taps.dilation_height + taps.pad_top + 1;
  const Whole right =
      Whole(taps.kernel_width) * taps.dilation_width + taps.pad_left + 1;
  require(channels <= kMost && phases <= kMost && down <= kMost && right <= kMost &&
              channels * phases <= kMost && down * taps.pitch <= kMost &&
              channels * phases * taps.plane + down * taps.pitch + right <= kMost &&
              columns <= kMost,
          "a convolution reaches further than is counted");
}

void check_reads(const Checker& check, const Weight& weight, const View& x, Whole pixels) {
  const Taps& taps = weight.taps;
  std::vector<int32_t> offsets(
      static_cast<size_t>(taps.inputs * taps.kernel_height * taps.kernel_width));
  tap_offsets(taps, offsets.data());
  const auto [least, most] = std::minmax_element(offsets.begin(), offsets.end());
  const Whole group = Whole(taps.groups - 1) * taps.inputs * taps.stride_height *
                         taps.stride_width * taps.plane;
  check.inside(x, *least, *most + group + pixels, kRead);
}

// The bytes of the mask of row ends.
Whole check_keep(Checker& check, const Plan& plan) {
  if (plan.keep[0] == 0) return 0;
  const Whole kept = Whole(plan.keep[0]) * plan.keep[2];
  require(plan.keep[1] > 0 && plan.keep[2] >= plan.keep[1] && kept <= kMost &&
              plan.step.pixels <= rounded(kept, 8),
          "a product's mask does not fit it");
  check.opening(rounded(kept, 8));
  return 4 * rounded(kept, 8);
}

// The operand, and the bytes of what fills it.
Whole check_operand(Checker& check, Plan& plan, const Checker::Matrix& w) {
  const Step& step = plan.step;
  const Whole reads = rounded(step.pixels, 8);
  if (!plan.fill.present) {
    check_taps(check, plan.weight, w.columns);
    require(step.packed == 0 || plan.weight.taps.groups == 1, "panels are of one group");
    check_reads(check, plan.weight, step.x, step.packed ? Whole{step.pixels} : reads);
    return 0;
  }
  require(step.packed == 1, "a step fills panels that it does not read");
  const Checker::Matrix fill = check.matrix(plan.fill, 4);
  require(fill.rows == w.columns, "a step fills panels of another height");
  check_taps(check, plan.fill, fill.columns);
  check_reads(check, plan.fill, step.x, reads);
  check.work(Whole(fill.rows) * fill.columns * step.pixels);
  return 8 * Whole(fill.nonzeros);
}

void check_spmm(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  const Checker::Matrix w = check.matrix(plan.weight, 4);
  require(step.pixels > 0 && step.vectors >= 1 && step.vectors <= kMaxVectors && step.packed <= 1 &&
              step.addend.buffer < 0,
          "a product's tiles do not fit");
  require(step.channels == w.columns, "a product's operand does not fit its weight");
  check.inside(step.y, 0, Whole(w.rows - 1) * step.y.plane + step.pixels, kWritten);
  Whole bytes = check_keep(check, plan);
  bytes += check_operand(check, plan, w);
  if (step.packed) {
    const int64_t width = 8 * step.vectors;
    const ColumnBlocks blocks = column_blocks(w.rows, w.columns, w.nonzeros, width, check.isa);
    check.room(0, Whole(w.columns) * width);
    check.room(3, Whole(kChunk) * rounded(width, 16));
    const Whole rows = Whole(blocks.count) * (w.rows + 1);
    check.opening(Whole(w.columns) * width + 2 * rows);
    bytes += 6 * Whole(w.nonzeros) + 8 * rows + 80 * blocks.count + 4 * w.columns;
  } else {
    bytes += 8 * Whole(w.nonzeros) + 4 * (w.rows + 1) + 80;
  }
  check.take(bytes, 0);
  check.work(Whole(w.rows) * w.columns * step.pixels);
}

Blocks pack_panels(Packer& packer, const Plan& plan) {
  const OwnCsr own = packer.csr(plan.weight);
  const Csr& csr = own.csr;
  const bool shared = shares_columns(csr);
  const int64_t group = shared ? kGroup : 1;
  const ColumnBlocks cut =
      column_blocks(csr.rows, csr.columns, own.nonzeros, 8 * plan.step.vectors, packer.isa);
  auto* blocks = packer.take<SparseRows>(cut.count);
  int64_t count = 0;
  for (int64_t first = 0; first < csr.columns; first += cut.columns) {
    const int64_t last = std::min(first + cut.columns, csr.columns);
    const int64_t nonzeros = nonzeros_between(csr, first, last);
    auto* row_ptr = packer.take<int32_t>(csr.rows / group + 1);
    auto* row = shared ? nullptr : packer.take<int32_t>(csr.rows);
    auto* column = packer.take<uint16_t>(nonzeros / group);
    auto* value = packer.take<float>(nonzeros);
    fill_block(csr, first, last, shared, row_ptr, row, column, value);
    blocks[count++] = {csr.rows, kNone, group, first, row_ptr, row, nullptr, column, value, nullptr};
  }
  blocks[0].bias = packer.bias(plan.weight);
  blocks[count - 1].activation = plan.weight.activation;
  return {blocks, count};
}

const int32_t* pack_keep(Packer& packer, const Plan& plan) {
  const int64_t height = plan.keep[0], width = plan.keep[1], pitch = plan.keep[2];
  const int64_t pixels = height * pitch, whole = (pixels + 7) / 8 * 8;
  if (height == 0 || (pitch == width && pixels == whole)) return nullptr;
  auto* keep = packer.take<int32_t>(whole);
  std::fill(keep, keep + whole, 0);
  for (int64_t i = 0; i < height; ++i) std::fill(keep + i * pitch, keep + i * pitch + width, -1);
  return keep;
}

void pack_spmm(Packer& packer, Plan& plan) {
  Step& step = plan.step;
  step.keep = pack_keep(packer, plan);
  if (step.packed) {
    step.rows = pack_panels(packer, plan);
  } else {
    auto* rows = packer.take<SparseRows>(1);
    *rows = packer.planes(plan.weight);
    step.rows = {rows, 1};
  }
  if (plan.fill.present) {
    step.depthwise = packer.planes(plan.fill);
  } else if (step.packed) {
    auto* panel = packer.take<int32_t>(step.channels);
    tap_offsets(plan.weight.taps, panel);
    step.panel = panel;
  }
}

void check_depthwise(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  const Checker::Matrix w = check.matrix(plan.weight, 4);
  const std::vector<int64_t>& shape = check.tensor(plan.weight).shape;
  require(w.rows == step.channels && shape[1] == 1 && shape[2] == step.kernel_height &&
              shape[3] == step.kernel_width && w.columns <= kMaxTaps,
          "a depthwise convolution does not fit its weight");
  require(step.stride_height >= 1 && (step.stride_width == 1 || step.stride_width == 2),
          "a depthwise convolution has a stride without a kernel");
  check.planes(step.x, step.channels, step.in_height, step.in_width, kRead);
  check.planes(step.y, step.channels, step.height, step.width, kWritten);
  check.take(8 * Whole(w.nonzeros) + 4 * (w.rows + 1) + 80, 0);
  check.work(Whole(w.rows) * w.columns * step.height * step.width);
}

void pack_depthwise(Packer& packer, Plan& plan) {
  const OwnCsr own = packer.csr(plan.weight);
  auto* row_ptr = packer.take<int32_t>(own.csr.rows + 1);
  auto* offset = packer.take<int32_t>(own.nonzeros);
  auto* value = packer.take<float>(own.nonzeros);
  std::copy(own.row_ptr.begin(), own.row_ptr.end(), row_ptr);
  std::copy(own.value.begin(), own.value.end(), value);
  for (int64_t j = 0; j < own.nonzeros; ++j) offset[j] = static_cast<int32_t>(own.csr.column(j));
  auto* rows = packer.take<SparseRows>(1);
  *rows = {own.csr.rows, plan.weight.activation, 1, 0, row_ptr, nullptr, offset, nullptr, value,
           packer.bias(plan.weight)};
  plan.step.rows = {rows, 1};
}

constexpr Kind kKinds[] = {{"spmm", kSpmm, check_spmm, pack_spmm},
                           {"depthwise", kDepthwise, check_depthwise, pack_depthwise}};

}  // namespace

std::span<const Kind> convolution_kinds() { return kKinds; }

}  // namespace billhook
