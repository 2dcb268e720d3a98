#include "checks.h"

#include <algorithm>

#include "f32_depthwise.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr int64_t kFloatsPerByte = 4096, kWorkPerByte = 1 << 16, kLeastFloats = 1 << 24;
constexpr int64_t kMaxVectors = 16, kMaxLaneColumns = (1 << 16) - 1, kColumnFloats = 6;
constexpr int64_t kWidestVector = 16;

__int128 rounded(__int128 value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

Limits Limits::of(int64_t file_bytes, int64_t input_bytes) {
  const int64_t both = file_bytes + input_bytes;
  return {kFloatsPerByte * both, std::max(kLeastFloats, kFloatsPerByte * file_bytes),
          kWorkPerByte * both};
}

void Checker::finish(const Limits& limits) const {
  if (opening_ > limits.opening || work_ > limits.work)
    refuse("its steps take more memory or work than the sizes of the file and of its inputs allow: "
           "the file may be hostile");
}

void Checker::room(int slot, __int128 floats) {
  require(floats <= kMost, "a step needs more scratch memory than any program does");
  scratch[slot] = std::max(scratch[slot], static_cast<int64_t>(floats));
}

void Checker::take(__int128 weights, __int128 packing) {
  require(weights <= INT64_MAX / 4 - needs.weights && packing <= INT64_MAX / 4,
          "a weight takes more memory than can be counted");
  needs.weights += static_cast<int64_t>(weights);
  needs.packing = std::max(needs.packing, static_cast<int64_t>(packing));
}

void Checker::inside(const View& view, __int128 first, __int128 last, bool written) const {
  const auto count = static_cast<int64_t>(buffers_.size());
  require(view.buffer >= 0 && view.buffer < count, "a step uses a buffer that does not exist");
  const bool input = view.buffer >= 1 && view.buffer <= static_cast<int64_t>(inputs_);
  require(!written || !input, "a step writes to an input");
  require(view.offset + first >= 0 && view.offset + last <= buffers_[static_cast<size_t>(view.buffer)],
          "a step reads or writes outside of its buffer");
}

void Checker::planes(const View& view, int64_t channels, int64_t height, int64_t width,
                     bool written) const {
  const __int128 last = static_cast<__int128>(channels - 1) * view.plane +
                        static_cast<__int128>(height - 1) * view.pitch +
                        (written ? std::max(width, view.pitch) : width);
  require(channels > 0 && height > 0 && width > 0 && (!written || view.pitch >= width),
          "a step works on planes of no size");
  inside(view, 0, last, written);
}

Checker::Matrix Checker::matrix(Plan::Weight& weight, size_t dimensions) {
  require(weight.present, "a step has no weight");
  const Tensor& tensor = file_.tensor(weight.tensor);
  require(tensor.dtype == "F32" && tensor.shape.size() == dimensions && tensor.elements() > 0,
          "a weight is of another type or number of dimensions than its step takes");
  const int64_t rows = tensor.shape[0], columns = tensor.elements() / rows;
  require(rows <= kMost && columns <= kMost, "a weight has more rows or columns than are counted");
  if (!weight.bias.empty()) {
    const Tensor& bias = file_.tensor(weight.bias);
    require(bias.dtype == "F32" && bias.shape == std::vector<int64_t>{rows},
            "a bias does not fit its weight");
  }
  const auto nnz = tensor.params.find("nnz");
  const int64_t stored = tensor.stored();  // refuses an entry that does not fit its record
  const int64_t nonzeros = nnz == tensor.params.end() ? stored : nnz->second;
  require(nonzeros <= kMost, "a weight has more nonzeros than are counted");
  opening_ += static_cast<__int128>(kColumnFloats) * columns + 2 * rows;
  // The nonzeros beside the entry they come from, then with a row_ptr and columns.
  const __int128 mask = (static_cast<__int128>(rows) * columns + 7) / 8;
  const __int128 coded = tensor.end - tensor.begin;
  take(4 * static_cast<__int128>(rows), mask + 4 * static_cast<__int128>(nonzeros) +
                    std::max(coded, 4 * static_cast<__int128>(rows + nonzeros) + 8 * columns));
  return {rows, columns, nonzeros};
}

void Checker::taps(Plan::Weight& weight, const Tensor& tensor, int64_t columns) {
  Taps& taps = weight.taps;
  require(weight.has_taps, "a convolution does not say how it reads its planes");
  taps.inputs = tensor.shape[1];
  taps.kernel_height = tensor.shape[2];
  taps.kernel_width = tensor.shape[3];
  require(taps.stride_height > 0 && taps.stride_width > 0 && taps.dilation_height > 0 &&
              taps.dilation_width > 0 && taps.groups > 0 && tensor.shape[0] % taps.groups == 0,
          "a convolution's stride, dilation or groups do not fit");
  const __int128 channels = static_cast<__int128>(taps.inputs) * taps.groups;
  const __int128 phases = static_cast<__int128>(taps.stride_height) * taps.stride_width;
  const __int128 down = static_cast<__int128>(taps.kernel_height) * taps.dilation_height + taps.pad_top + 1;
  const __int128 right = static_cast<__int128>(taps.kernel_width) * taps.dilation_width + taps.pad_left + 1;
  require(channels <= kMost && phases <= kMost && down <= kMost && right <= kMost &&
              channels * phases <= kMost && down * taps.pitch <= kMost &&
              channels * phases * taps.plane + down * taps.pitch + right <= kMost && columns <= kMost,
          "a convolution reaches further than is counted");
}

void Checker::reads_taps(const Plan::Weight& weight, const View& x, int64_t pixels) const {
  const Taps& taps = weight.taps;
  std::vector<int32_t> offsets(
      static_cast<size_t>(taps.inputs * taps.kernel_height * taps.kernel_width));
  tap_offsets(taps, offsets.data());
  const auto [least, most] = std::minmax_element(offsets.begin(), offsets.end());
  const __int128 group = static_cast<__int128>(taps.groups - 1) * taps.inputs * taps.stride_height *
                         taps.stride_width * taps.plane;
  inside(x, *least, *most + group + pixels, false);
}

void Checker::spmm(Plan& plan) {
  Step& step = plan.step;
  const Matrix w = matrix(plan.weight, 4);
  require(opening_ <= kMost, "its weights are larger than any program's");
  require(step.pixels > 0 && step.vectors >= 1 && step.vectors <= kMaxVectors &&
              step.packed >= 0 && step.packed <= 1 && step.addend.buffer < 0,
          "a product's tiles do not fit");
  require(step.channels == w.columns, "a product's operand does not fit its weight");
  const __int128 reads = rounded(step.pixels, 8);
  inside(step.y, 0, static_cast<__int128>(w.rows - 1) * step.y.plane + step.pixels, true);
  const int64_t width = 8 * step.vectors;
  __int128 weights = 0;
  if (plan.keep[0] > 0) {
    const __int128 kept = static_cast<__int128>(plan.keep[0]) * plan.keep[2];
    require(plan.keep[1] > 0 && plan.keep[2] >= plan.keep[1] && step.pixels <= rounded(kept, 8) &&
                kept <= kMost,
            "a product's mask does not fit it");
    opening_ += rounded(kept, 8);
    weights += 4 * rounded(kept, 8);
  }
  if (plan.fill.present) {
    require(step.packed == 1, "a step fills panels that it does not read");
    const Matrix fill = matrix(plan.fill, 4);
    require(fill.rows == w.columns, "a step fills panels of another height");
    taps(plan.fill, file_.tensor(plan.fill.tensor), fill.columns);
    require(opening_ <= kMost, "its weights are larger than any program's");
    reads_taps(plan.fill, step.x, static_cast<int64_t>(reads));
    weights += 8 * static_cast<__int128>(fill.nonzeros);
    work_ += static_cast<__int128>(fill.rows) * fill.columns * step.pixels;
  } else {
    taps(plan.weight, file_.tensor(plan.weight.tensor), w.columns);
    require(step.packed == 0 || plan.weight.taps.groups == 1, "panels are of one group");
    reads_taps(plan.weight, step.x, static_cast<int64_t>(step.packed ? __int128{step.pixels} : reads));
  }
  if (step.packed) {
    const ColumnBlocks blocks = column_blocks(w.rows, w.columns, w.nonzeros, width, isa_);
    room(0, static_cast<__int128>(w.columns) * width);
    room(3, static_cast<__int128>(kChunk) * rounded(width, 16));
    opening_ += static_cast<__int128>(w.columns) * width;
    const __int128 rows = static_cast<__int128>(blocks.count) * (w.rows + 1);
    opening_ += 2 * rows;
    weights += 6 * static_cast<__int128>(w.nonzeros) + 8 * rows + 80 * blocks.count + 4 * w.columns;
  } else {
    weights += 8 * static_cast<__int128>(w.nonzeros) + 4 * (w.rows + 1) + 80;
  }
  take(weights, 0);
  work_ += static_cast<__int128>(w.rows) * w.columns * step.pixels;
}

void Checker::depthwise(Plan& plan) {
  Step& step = plan.step;
  const Matrix w = matrix(plan.weight, 4);
  const std::vector<int64_t>& shape = file_.tensor(plan.weight.tensor).shape;
  require(w.rows == step.channels && shape[1] == 1 && shape[2] == step.kernel_height &&
              shape[3] == step.kernel_width && w.columns <= kMaxTaps,
          "a depthwise convolution does not fit its weight");
  require(step.stride_height >= 1 && (step.stride_width == 1 || step.stride_width == 2),
          "a depthwise convolution has a stride without a kernel");
  planes(step.x, step.channels, step.in_height, step.in_width, false);
  planes(step.y, step.channels, step.height, step.width, true);
  take(8 * static_cast<__int128>(w.nonzeros) + 4 * (w.rows + 1) + 80, 0);
  work_ += static_cast<__int128>(w.rows) * w.columns * step.height * step.width;
}

void Checker::linear(Plan& plan) {
  const Matrix w = matrix(plan.weight, 2);
  require(w.columns <= kMaxLaneColumns, "a linear layer has more columns than its kernel counts");
  inside(plan.step.x, 0, w.columns, false);
  inside(plan.step.y, 0, w.rows, true);
  if (plan.step.addend.buffer >= 0) inside(plan.step.addend, 0, w.rows, false);
  room(2, w.columns + 1);
  // The longest row of a group is no longer than the shortest one of the group before.
  const __int128 slots = static_cast<__int128>(w.nonzeros) + 8 * w.columns;
  take(6 * slots + 5 * rounded(w.rows, 8) + 16, 8 * static_cast<__int128>(w.rows));
  work_ += static_cast<__int128>(w.rows) * w.columns;
}

void Checker::maps(const Step& step) {
  const bool copy = step.op == kCopy, pool = step.op == kMaxPool || step.op == kAvgPool;
  const bool add = step.op == kAdd;
  planes(step.x, step.channels, add ? step.height : step.in_height, add ? step.width : step.in_width, false);
  const __int128 all = static_cast<__int128>(step.channels) * step.height * step.width;
  work_ += all + static_cast<__int128>(step.channels) * step.in_height * step.in_width;
  if (step.op == kMean) {
    return inside(step.y, 0, static_cast<__int128>(step.channels - 1) * step.y.plane + 1, true);
  }
  if (add && step.addend.buffer >= 0)
    planes(step.addend, step.channels, step.height, step.width, false);
  if (copy) {
    const __int128 phases = static_cast<__int128>(step.stride_height) * step.stride_width;
    require(phases > 0 && phases <= kMost && step.y.pitch >= step.width && step.height > 0 && step.width > 0,
            "a copy's stride does not fit");
    const int64_t phase = step.y.plane / static_cast<int64_t>(phases);
    work_ += phases * step.channels * step.height * step.y.pitch;
    return inside(step.y, 0,
                  static_cast<__int128>(step.channels - 1) * step.y.plane + (phases - 1) * phase +
                      static_cast<__int128>(step.height) * step.y.pitch,
                  true);
  }
  planes(step.y, step.channels, step.height, step.width, true);
  if (!pool) return;
  require(step.kernel_height > 0 && step.kernel_width > 0 && step.stride_height > 0 &&
              step.stride_width > 0,
          "a pool's window has no size");
  const __int128 windows = step.width + kWidestVector;
  const __int128 row = step.pad_left + step.in_width + windows * step.stride_width +
                       step.kernel_width + kWidestVector;
  room(0, row);
  room(1, windows);
  opening_ += row;
  const __int128 rows = std::min(step.kernel_height, step.in_height);
  work_ += static_cast<__int128>(step.channels) * step.height *
           (rows * step.in_width + static_cast<__int128>(step.width) * step.kernel_width + row);
}

void Checker::elements(const Step& step) {
  View y = step.y;  // of one row the pitch may be anything: a vector's is 1
  if (step.height == 1) y.pitch = std::max(y.pitch, step.width);
  planes(y, step.channels, step.height, step.width, true);
  if (step.op != kFill) planes(step.x, step.channels, step.height, step.width, false);
  require((step.op == kBinary) == (step.addend.buffer >= 0) && step.from[0] <= 1,
          "a function has another number of operands than it takes");
  if (step.op == kBinary)
    planes(step.addend, step.channels, step.height, step.from[0] ? step.width : 1, false);
  work_ += 16 * static_cast<__int128>(step.channels) * step.height * step.width;
}

void Checker::rearrange(const Step& step) {
  require(step.dims >= 0 && step.dims <= kMaxDims, "a copy has more dimensions than there are");
  __int128 read = 1, written = 1, count = 1;
  for (int64_t d = 0; d < step.dims; ++d) {
    require(step.size[d] > 0, "a copy has a dimension of no size");
    read += static_cast<__int128>(step.size[d] - 1) * step.from[d];
    written += static_cast<__int128>(step.size[d] - 1) * step.to[d];
    count *= step.size[d];
    require(count <= kMost, "a copy is larger than any program's");
  }
  inside(step.x, 0, read, false);
  inside(step.y, 0, written, true);
  if (step.y.pitch > step.width) {
    if (step.channels > 0 && step.height > 0)
      inside(step.y, 0,
             static_cast<__int128>(step.channels - 1) * step.y.plane +
                 static_cast<__int128>(step.height) * step.y.pitch,
             true);
    work_ += static_cast<__int128>(step.channels) * step.height * step.y.pitch;
  }
  work_ += 2 * count;
}

void Checker::check(Plan& plan) {
  const __int128 before = work_;
  switch (plan.step.op) {
    case kSpmm: spmm(plan); break;
    case kDepthwise: depthwise(plan); break;
    case kLinear: linear(plan); break;
    case kFill:
    case kPointwise:
    case kBinary: elements(plan.step); break;
    case kRearrange: rearrange(plan.step); break;
    default: maps(plan.step);
  }
  require(work_ - before <= __int128{1} << 62, "a step takes longer than any program's");
}

}  // namespace billhook
