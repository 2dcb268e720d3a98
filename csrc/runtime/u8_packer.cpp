#include "u8_packer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "isa.h"
#include "refusal.h"
#include "u8_pack.h"

namespace billhook {

namespace {

constexpr int64_t kBeyond = 64;  // bytes after an array that kernels may read
constexpr int64_t kMostSum = INT32_MAX;

// A matrix with what turns its sums to values.
struct Rows {
  std::vector<int8_t> value;
  std::vector<int32_t> bias;
  std::vector<float> scale;
  S8Matrix m{};
};

// Refusal unless no sum, and no `rounded` result before it is saturated, can leave 32 bits.
void check_sums(const Rows& rows, bool rounded, double addend_scale) {
  for (int64_t r = 0; r < rows.m.rows; ++r) {
    const int8_t* row = rows.m.value + r * rows.m.columns;
    const int64_t sum = std::accumulate(row, row + rows.m.columns, int64_t{0},
                                        [](int64_t all, int8_t v) { return all + std::abs(int{v}); });
    const int64_t most = 255 * sum + std::llabs(rows.bias[static_cast<size_t>(r)]);
    const float scale = rows.scale[static_cast<size_t>(r)];
    const double result = static_cast<double>(most) * static_cast<double>(scale) + 255 * addend_scale;
    require(most <= kMostSum && std::isfinite(scale) && scale >= 0 &&
                (!rounded || result < static_cast<double>(kMostSum) / 2),
            "sums of a weight in 8 bits can leave 32 bits");
  }
}

// The matrix of a step: of a convolution's filters, or as it lies.
Rows read(const Packer& packer, const U8Plan& plan, bool filters) {
  const Tensor& weight = packer.file.tensor(plan.weight.tensor);
  const int64_t rows = weight.shape[0], inputs = weight.shape[1];
  Rows own;
  own.value.resize(static_cast<size_t>(weight.elements()));
  packer.file.values(weight, own.value.data());
  if (filters) {
    const S8Filters given{rows, inputs, weight.elements() / (rows * inputs), plan.weight.groups,
                          own.value.data()};
    std::vector<int8_t> matrix(static_cast<size_t>(rows * matrix_columns(given)));
    fill_matrix(given, matrix.data());
    own.value = std::move(matrix);
  }
  own.m = {rows, static_cast<int64_t>(own.value.size()) / rows, own.value.data()};
  own.bias.resize(static_cast<size_t>(rows));
  own.scale.resize(static_cast<size_t>(rows));
  packer.file.values(packer.file.tensor(plan.weight.bias), own.bias.data());
  packer.file.floats(packer.file.tensor(plan.weight.factors), own.scale.data());
  check_sums(own, plan.step.op != kU8Linear, plan.step.addend_scale);
  if (packer.isa == kNeonDot) shift_biases(own.m, own.bias.data(), own.bias.data());
  return own;
}

// An array that kernels may read a little beyond.
template <typename T>
T* room(Packer& packer, int64_t count) {
  return packer.take<T>(count + kBeyond / static_cast<int64_t>(sizeof(T)));
}

template <typename T>
const T* padded(Packer& packer, const std::vector<T>& from, int64_t count) {
  T* own = room<T>(packer, count);
  std::fill(own, own + count, T{});
  std::copy(from.begin(), from.end(), own);
  return own;
}

// The same, in the order of `row`; where that is -1 zeros.
template <typename T>
const T* ordered(Packer& packer, const std::vector<T>& from, const int32_t* row, int64_t count) {
  T* own = room<T>(packer, count);
  for (int64_t i = 0; i < count; ++i) own[i] = row[i] < 0 ? T{} : from[static_cast<size_t>(row[i])];
  return own;
}

template <typename Packed>
const Packed* keep(Packer& packer, const Packed& packed) {
  auto* own = packer.take<Packed>(1);
  *own = packed;
  return own;
}

const BlockRows* pack_blocks(Packer& packer, const Rows& rows, const U8Kernel& kernel) {
  const int64_t groups = block_groups(rows.m.rows, kernel.group), length = groups * kernel.group;
  const bool words = packer.isa == kAvx2;
  auto* ptr = room<int32_t>(packer, groups + 1);
  const int64_t count = count_blocks(rows.m, kernel.group, kernel.all, ptr);
  auto* column = room<uint16_t>(packer, count);
  auto* value = room<int8_t>(packer, count * kernel.group * (words ? 8 : 4));
  fill_blocks(rows.m, kernel.group, kernel.all, words, column, value);
  return keep<BlockRows>(packer, {rows.m.rows, kernel.group, groups, ptr, column, value,
                                  padded(packer, rows.bias, length), padded(packer, rows.scale, length)});
}

const VectorRows* pack_vector(Packer& packer, const Rows& rows, int64_t group) {
  const int64_t packs = pack_count(rows.m.rows), length = packs * kPackRows;
  const bool words = packer.isa == kAvx2;
  auto* ptr = room<int32_t>(packer, packs + 1);
  auto* row = room<int32_t>(packer, length);
  const int64_t steps = pack_steps(rows.m, group, ptr, row);
  auto* column = room<uint16_t>(packer, steps * kPackRows / group);
  auto* value = room<int8_t>(packer, steps * kStepBytes);
  fill_packs(rows.m, group, words, ptr, row, column, value);
  return keep<VectorRows>(packer, {rows.m.rows, rows.m.columns, group, packs, ptr, column, value, row,
                                   ordered(packer, rows.bias, row, length),
                                   ordered(packer, rows.scale, row, length), nullptr});
}

const WindowRows* pack_windows(Packer& packer, const Rows& rows, bool stream) {
  const int64_t packs = pack_count(rows.m.rows), windows = window_count(rows.m.columns);
  auto* ptr = room<int32_t>(packer, packs * windows + 1);
  const int64_t steps = window_steps(rows.m, ptr), length = packs * kPackRows;
  WindowRows packed{rows.m.rows, rows.m.columns, packs,   windows, ptr,     nullptr, nullptr,
                    nullptr,     nullptr,        nullptr, nullptr, nullptr, nullptr};
  if (stream) {
    const int64_t zeros = std::count(rows.value.begin(), rows.value.end(), int8_t{0});
    auto* mask = room<uint64_t>(packer, steps);
    auto* begin = room<int64_t>(packer, packs + 1);
    auto* bytes = room<uint8_t>(packer, 2 * (static_cast<int64_t>(rows.value.size()) - zeros) + 3 * kBeyond);
    fill_stream(rows.m, ptr, mask, begin, bytes);
    packed.mask = mask, packed.begin = begin, packed.stream = bytes;
  } else {
    auto* index = room<uint8_t>(packer, steps * kStepBytes);
    auto* value = room<int8_t>(packer, steps * kStepBytes);
    fill_windows(rows.m, ptr, index, value);
    packed.index = index, packed.value = value;
  }
  packed.bias = padded(packer, rows.bias, length);
  packed.scale = padded(packer, rows.scale, length);
  return keep(packer, packed);
}

bool by_windows(const Packer& packer, const U8Plan& plan) {
  return plan.weight.kernel->windows && packer.isa == kAvx512Vbmi;
}

}  // namespace

void pack_u8_conv(Packer& packer, U8Plan& plan) {
  const Rows rows = read(packer, plan, true);
  if (by_windows(packer, plan))
    plan.step.windows = pack_windows(packer, rows, false);
  else
    plan.step.rows = pack_blocks(packer, rows, *plan.weight.kernel);
}

void pack_u8_depthwise(Packer& packer, U8Plan& plan) {
  const Rows rows = read(packer, plan, false);
  const Window2d& w = plan.step.window;
  const S8Taps taps{rows.m.rows,    w.kernel_height,       w.kernel_width,
                    w.stride_width, packer.isa == kAvx2, rows.m.value};
  auto* value = room<int8_t>(packer, quads_bytes(taps));
  fill_quads(taps, value);
  const int64_t length = (rows.m.rows + 3) / 4 * 4;
  plan.step.depthwise = keep<DepthwiseQuads>(
      packer, {value, padded(packer, rows.bias, length), padded(packer, rows.scale, length)});
}

void pack_u8_linear(Packer& packer, U8Plan& plan) {
  const Rows rows = read(packer, plan, false);
  U8Matrix matrix{nullptr, nullptr, nullptr, nullptr, nullptr, rows.m.rows, rows.m.columns};
  const bool vector = plan.step.pixels == 1, windows = by_windows(packer, plan);
  if (windows)
    (vector ? matrix.vector_windows : matrix.batch_windows) = pack_windows(packer, rows, vector);
  else if (vector)
    matrix.vector = pack_vector(packer, rows, plan.weight.kernel->vector_group);
  else
    matrix.batch = pack_blocks(packer, rows, *plan.weight.kernel);
  plan.step.matrix = keep(packer, matrix);
}

}  // namespace billhook
