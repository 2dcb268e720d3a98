// Steps in 8 bits without weights: borders to fp32, pools, sums, copies.
#include <algorithm>
#include <cmath>

#include "kinds.h"
#include "refusal.h"
#include "u8_kinds.h"

namespace billhook {

namespace {

constexpr int64_t kLineBytes = 4 * kLine, kTurnedRows = 8;

Whole size_of(const U8Step& step) { return Whole(step.channels) * step.pixels; }

void quantise(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.y, step.channels, step.pixels, kWritten);
  check_floats(check, step.x, size_of(step), kRead);
  require(step.by_sample <= 1, "a step reads samples in an order that does not exist");
  if (step.by_sample == 1)
    check.room(kBytesSlot, kTurnedRows * Whole(step.channels + 3) + kSlack);
  check.work(size_of(step));
}

void dequantise(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_floats(check, step.y, size_of(step), kWritten);
  check.work(size_of(step));
}

void quantise_vector(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_floats(check, step.x, step.channels, kRead);
  check_bytes(check, step.y, step.channels, kWritten);
  check.work(step.channels);
}

void pool(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  const Window2d& w = step.window;
  check_window(w);
  check_map(check, step.x, step.channels, Whole(w.in_height) * w.in_width, kRead);
  check_map(check, step.y, step.channels, Whole(w.height) * w.width, kWritten);
  const Whole taps = Whole(w.kernel_height) * w.kernel_width;
  require(255 * taps <= kMost, "a pool's window has more elements than are summed");
  check.room(kRowSlot, Whole(w.width) + kSlack);
  check.room(kCountSlot, 5 * Whole(w.width));
  check.work(Whole(step.channels) * w.height *
             (w.width + std::min(w.kernel_height, w.in_height) * Whole(w.width) *
                            w.kernel_width));
}

void mean(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_bytes(check, step.y, Whole(step.channels) + 3, kWritten);
  check.work(size_of(step));
}

void add(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  if (step.addend.buffer >= 0) check_map(check, step.addend, step.channels, step.pixels, kRead);
  check_map(check, step.y, step.channels, step.pixels, kWritten);
  check.work(2 * size_of(step));
}

// A tensor of one dimension that a step reads while it runs, of elements of so many bytes.
const Tensor& array(Checker& check, const std::string& name, std::string_view dtype, int64_t bytes) {
  const Tensor& own = check.tensor(name);
  require(own.dtype == dtype && own.shape.size() == 1, "a table or an index is of another type");
  const Whole size = Whole(own.elements()) * bytes;
  check.opening(own.elements());
  check.take(size, size + 2 * Whole(own.end - own.begin) + own.elements() / 8);
  return own;
}

void table(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_map(check, step.y, step.channels, step.pixels, kWritten);
  require(array(check, plan.table, "U8", 1).elements() == 256, "a table does not have 256 bytes");
  check.work(size_of(step));
}

void pack_table(Packer& packer, U8Plan& plan) {
  const std::vector<uint8_t> bytes = packer.file.bytes(packer.file.tensor(plan.table));
  auto* own = packer.take<uint8_t>(static_cast<int64_t>(bytes.size()));
  std::copy(bytes.begin(), bytes.end(), own);
  plan.step.table = own;
}

void multiply(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_map(check, step.y, step.channels, step.pixels, kWritten);
  check_map(check, step.addend, step.channels, step.by_channel == 0 ? step.pixels : 1, kRead);
  require(step.by_channel <= 1 && step.zero <= 255 && step.addend_zero <= 255 &&
              std::fabs(step.scale) * (255 * 255) + std::fabs(step.shift) < kMost / 2.0,
          "products of a step can leave 32 bits");
  check.work(2 * size_of(step));
}

void select(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_map(check, step.y, step.selected, step.pixels, kWritten);
  require(array(check, plan.index, "I32", 4).elements() == step.selected,
          "an index has another length than the channels that it selects");
  check.work(Whole(step.selected) * step.pixels);
}

// What the index says is known only here.
void pack_select(Packer& packer, U8Plan& plan) {
  const Tensor& own = packer.file.tensor(plan.index);
  auto* index = packer.take<int32_t>(own.elements());
  packer.file.values(own, index);
  for (int64_t i = 0; i < own.elements(); ++i)
    require(index[i] >= 0 && index[i] < plan.step.channels, "an index names a channel that does not exist");
  plan.step.index = index;
}

void copy(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  require(step.first <= kMost - step.channels, "a copy goes further than is counted");
  check_map(check, step.y, step.first + step.channels, step.pixels, kWritten);
  check.work(size_of(step));
}

void flatten(Checker& check, U8Plan& plan) {
  const U8Step& step = plan.step;
  check_map(check, step.x, step.channels, step.pixels, kRead);
  check_bytes(check, step.y, size_of(step), kWritten);
  check.work(size_of(step));
}

constexpr U8Kind kKinds[] = {{"quantise", kU8Quantise, quantise, nullptr, true},
                             {"dequantise", kU8Dequantise, dequantise, nullptr, true},
                             {"quantise_vector", kU8QuantiseVector, quantise_vector},
                             {"max_pool", kU8MaxPool, pool},
                             {"average_pool", kU8AveragePool, pool},
                             {"mean", kU8Mean, mean},
                             {"add", kU8Add, add, nullptr, true},
                             {"table", kU8Table, table, pack_table, true},
                             {"multiply", kU8Multiply, multiply, nullptr, true},
                             {"select", kU8Select, select, pack_select, true},
                             {"copy", kU8Copy, copy, nullptr, true},
                             {"flatten", kU8Flatten, flatten}};

}  // namespace

std::span<const U8Kind> u8_map_kinds() { return kKinds; }

const U8Kind& u8_kind_of(const std::string& name) {
  for (const auto family : {u8_map_kinds(), u8_matrix_kinds()})
    for (const U8Kind& kind : family)
      if (kind.name == name) return kind;
  refuse_unknown("operation in 8 bits", name);
}

void check_bytes(const Checker& check, const U8View& view, Whole count, Access access) {
  require(view.buffer == 0, "a step in 8 bits works on bytes outside of the workspace");
  require(count > 0, "a step in 8 bits works on nothing");
  check.inside({0, view.offset, 0, 0}, 0, count + kSlack, access);
}

void check_map(const Checker& check, const U8View& view, int64_t channels, Whole pixels,
               Access access) {
  require(channels > 0 && pixels > 0, "a step works on a map of no size");
  const Whole lines = (pixels + kLine - 1) / kLine, quads = (Whole(channels) + 3) / 4;
  check_bytes(check, view, (quads - 1) * view.plane + lines * kLineBytes, access);
}

void check_floats(const Checker& check, const U8View& view, Whole count, Access access) {
  require(view.offset % 4 == 0, "floats begin at a byte that is not a multiple of four");
  require(count > 0, "a step works on no floats");
  check.inside({view.buffer, view.offset, 0, 0}, 0, 4 * count, access);
}

void check_window(const Window2d& w) {
  require(std::min({w.in_height, w.in_width, w.height, w.width, w.kernel_height, w.kernel_width,
                    w.stride_height, w.stride_width, w.dilation_height, w.dilation_width}) > 0 &&
              w.zero <= 255,
          "a window has no size, stride or dilation");
  const auto reach = [](int64_t size, int64_t stride, int64_t kernel, int64_t dilation, int64_t pad) {
    return Whole(size) * stride + Whole(kernel) * dilation + pad <= kMost;
  };
  require(reach(w.height, w.stride_height, w.kernel_height, w.dilation_height, w.pad_top) &&
              reach(w.width, w.stride_width, w.kernel_width, w.dilation_width, w.pad_left),
          "a window reaches further than is counted");
}

}  // namespace billhook
