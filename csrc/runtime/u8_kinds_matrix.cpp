// Steps in 8 bits with weights: convolutions, depthwise ones, matrices.
#include <algorithm>

#include "isa.h"
#include "refusal.h"
#include "u8_kinds.h"
#include "u8_pack.h"
#include "u8_packer.h"

namespace billhook {

namespace {

constexpr int64_t kMaxLines = 8, kMaxQuads = 1 << 16;

Whole up(Whole value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

struct Matrix {
  int64_t rows, columns;
  Whole blocks;  // of a group of rows by four columns, at most
};

// The matrix of a weight of so many dimensions, its bias and its factors; counts what packing it takes.
Matrix check_matrix(Checker& check, const U8Weight& weight, size_t dimensions) {
  const Tensor& own = check.tensor(weight.tensor);
  require(own.dtype == "I8" && own.shape.size() == dimensions && own.elements() > 0,
          "a weight is of another type or number of dimensions than its step takes");
  const int64_t rows = own.shape[0], inputs = own.shape[1], taps = own.elements() / rows / inputs;
  require(rows <= kMost && inputs <= kMost / weight.groups && rows % weight.groups == 0,
          "a weight has more rows or columns than are counted, or does not fit its groups");
  const Whole columns = dimensions == 2 ? inputs : taps * up(inputs * weight.groups, 4);
  require(up(columns, 4) / 4 <= kMaxQuads, "a weight has more columns than the kernels count");
  const Tensor& bias = check.tensor(weight.bias);
  const Tensor& factors = check.tensor(weight.factors);
  const std::vector<int64_t> one{rows};
  require(bias.dtype == "I32" && bias.shape == one && factors.dtype == "F32" && factors.shape == one,
          "a bias or factors do not fit their weight");
  const auto nnz = own.params.find("nnz");
  const int64_t stored = own.stored();  // refuses an entry that does not fit its record
  const int64_t nonzeros = nnz == own.params.end() ? stored : nnz->second;
  const Whole cells = up(rows, kPackRows) * up(columns, kWindowColumns);
  check.opening(cells / 4);
  // The weight and its matrix, beside the entry and mask that it is decoded from.
  check.take(0, own.elements() + cells + 2 * Whole(own.end - own.begin) +
                    own.elements() / 8 + 16 * Whole(rows));
  const U8Kernel* kernel = weight.kernel;
  const int64_t group = kernel == nullptr ? 1 : kernel->group;
  const Whole every = up(rows, std::max<int64_t>(group, 4)) / group * (up(columns, 4) / 4);
  return {rows, static_cast<int64_t>(columns),
          kernel != nullptr && kernel->all ? every : std::min<Whole>(every, nonzeros)};
}

// What a product takes when it is packed, at most, and scratch memory of its windows.
void take_product(Checker& check, const U8Weight& weight, const Matrix& m, bool vector) {
  const U8Kernel& kernel = *weight.kernel;
  const int64_t group = vector ? kernel.vector_group : kernel.group;
  const Whole rows = up(m.rows, kPackRows), quads = up(m.columns, 4) / 4;
  Whole bytes = 12 * rows + 4 * (rows + 1) + 1024;
  if (kernel.windows && check.isa == kAvx512Vbmi) {
    const int64_t windows = window_count(m.columns);
    const Whole packs = rows / kPackRows;
    check.room(kRowSlot, turned_bytes(windows) / 4);
    // Each step has a nonzero.
    const Whole steps = std::min<Whole>(4 * m.blocks, packs * windows * kPackRows);
    bytes += 4 * packs * windows + 8 * packs + steps * (2 * kStepBytes + 8);
  } else if (vector) {
    // The longest group of a pack is no longer than the shortest one of the pack before.
    const Whole steps = m.blocks * group / kPackRows + quads;
    bytes += steps * (kStepBytes + 2 * kPackRows / group);
  } else {
    bytes += m.blocks * (8 * group + 2);
  }
  check.take(bytes, 0);
}

void check_product(const U8Plan& plan) {
  require(plan.weight.kernel != nullptr && plan.step.pixels > 0,
          "a step in 8 bits has a matrix and no kernel, or no pixels");
}

void check_conv(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  const Window2d& w = step.window;
  check_product(plan);
  const Matrix m = check_matrix(check, plan.weight, 4);
  const std::vector<int64_t>& shape = check.tensor(plan.weight.tensor).shape;
  require(step.channels == shape[1] * plan.weight.groups && shape[2] == w.kernel_height &&
              shape[3] == w.kernel_width && step.lines >= 1 && step.lines <= kMaxLines &&
              step.gather <= 1,
          "a convolution in 8 bits does not fit its weight");
  check_window(w);
  if (step.gather == 1) {
    const Whole quads = (Whole(step.channels) + 3) / 4;
    require(Whole(w.height) * w.width == step.pixels,
            "a convolution in 8 bits does not fit its windows");
    check_map(check, step.x, step.channels, Whole(w.in_height) * w.in_width, kRead);
    check.room(kPanelSlot, kLine * step.lines * quads * shape[2] * shape[3] + kSlack);
    check.room(kRunSlot, run_bytes(w.width, kLine * step.lines) / 4);
    check.work(Whole(m.columns) * step.pixels);
  } else {
    require(w.kernel_height == 1 && w.kernel_width == 1, "windows are larger than a pixel");
    check_map(check, step.x, step.channels, step.pixels, kRead);
  }
  if (step.addend.buffer >= 0) check_map(check, step.addend, m.rows, step.pixels, kRead);
  require(step.addend_scale >= 0, "a sum is added by a negative factor");
  check_map(check, step.y, m.rows, step.pixels, kWritten);
  take_product(check, plan.weight, m, false);
  check.work((4 * m.blocks * plan.weight.kernel->group + m.rows) * step.pixels);
}

void check_depthwise(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  const Window2d& w = step.window;
  check_window(w);
  require(plan.weight.groups == step.channels && step.channels > 0 && plan.weight.kernel == nullptr,
          "a depthwise convolution in 8 bits does not fit its weight");
  const Matrix m = check_matrix(check, {plan.weight.tensor, plan.weight.bias, plan.weight.factors}, 4);
  const std::vector<int64_t>& shape = check.tensor(plan.weight.tensor).shape;
  require(m.rows == step.channels && shape[1] == 1 && shape[2] == w.kernel_height &&
              shape[3] == w.kernel_width && w.dilation_height == 1 && w.dilation_width == 1 &&
              w.stride_width <= 2,
          "a depthwise convolution in 8 bits has a form without a kernel");
  check_map(check, step.x, step.channels, Whole(w.in_height) * w.in_width, kRead);
  check_map(check, step.y, step.channels, Whole(w.height) * w.width, kWritten);
  const int64_t pitch = depthwise_pitch(w, kLine), band = std::min(depthwise_band(w, kLine), w.height);
  const Whole copied = Whole(depthwise_rows(w, band)) * pitch;
  check.room(kPanelSlot, (std::max(copied, Whole(kBandBytes)) + kDepthwiseSlack) / 4);
  const S8Taps taps{m.rows, w.kernel_height, w.kernel_width, w.stride_width, check.isa == kAvx2, nullptr};
  check.take(sizeof(DepthwiseQuads) + quads_bytes(taps) + 8 * up(m.rows, 4) + 1024, 0);
  check.work((Whole(shape[2]) * shape[3] * w.height * w.width + (w.height + band - 1) / band * (copied / 4)) *
             m.rows);
}

void check_linear(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_product(plan);
  const Matrix m = check_matrix(check, plan.weight, 2);
  const bool vector = step.pixels == 1;
  require(step.channels == m.columns && plan.weight.groups == 1 && step.relu <= 1,
          "a matrix in 8 bits does not fit its operand");
  check_floats(check, step.y, Whole(m.rows) * step.pixels, kWritten);
  if (vector) {
    check_bytes(check, step.x, up(m.columns, kWindowColumns), kRead);
    check.room(kWordSlot, word_bytes(m.columns) / 4 + 1);
  } else {
    check_map(check, step.x, m.columns, step.pixels, kRead);
    check.room(kSumsSlot, kChunkRows * up(step.pixels, kLine));
    check.room(kStepSlot, step.pixels);
  }
  take_product(check, plan.weight, m, vector);
  check.work((4 * m.blocks * plan.weight.kernel->group + m.rows) * step.pixels);
}

constexpr U8Kind kKinds[] = {{"conv", kU8Conv, check_conv, pack_u8_conv, true},
                             {"depthwise", kU8Depthwise, check_depthwise, pack_u8_depthwise},
                             {"linear", kU8Linear, check_linear, pack_u8_linear, true}};

}  // namespace

std::span<const U8Kind> u8_matrix_kinds() { return kKinds; }

}  // namespace billhook
