// The plane kernels of f32_pool.h, for the instruction set of the file that includes it.
#include <limits>

#include "activate.h"
#include "f32_panel.h"
#include "f32_pool.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

typedef float HalfVec __attribute__((vector_size(2 * kLanes), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(4 * kLanes)));

struct Larger {
  static constexpr float kStart = -std::numeric_limits<float>::infinity();
  Vec operator()(Vec a, Vec b) const { return (b > a) | (b != b) ? b : a; }
};

struct Sum {
  static constexpr float kStart = 0.0f;
  Vec operator()(Vec a, Vec b) const { return a + b; }
};

// Pixels [first, last) of one side of a plane: those of a window that are inside.
struct Span {
  int64_t first, last;
  Span(int64_t start, int64_t kernel, int64_t size)
      : first(start < 0 ? 0 : start), last(start + kernel < size ? start + kernel : size) {}
  int64_t count() const { return last - first; }
};

// The fold over some rows of a plane, each column by itself.
template <typename Fold>
void fold_rows(const Step& step, const float* x, const Span& rows, float* row) {
  const int64_t rest = step.in_width % kLanes, whole = step.in_width - rest;
  for (int64_t j = 0; j < whole; j += kLanes) {
    Vec acc = splat(Fold::kStart);
    for (int64_t r = rows.first; r < rows.last; ++r)
      acc = Fold{}(acc, load(x + r * step.x.pitch + j));
    store(row + j, acc);
  }
  if (rest == 0) return;
  const Mask lanes = lanes_between(0, rest);
  Vec acc = splat(Fold::kStart);
  for (int64_t r = rows.first; r < rows.last; ++r)
    acc = Fold{}(acc, load_where(x + r * step.x.pitch + whole, lanes));
  store_where(row + whole, acc, lanes);
}

// The fold over the columns of kLanes windows, the first of which begins at `row`.
template <typename Fold>
BILLHOOK_INLINE Vec fold_columns(const Step& step, const float* row) {
  Vec acc = splat(Fold::kStart);
  for (int64_t k = 0; k < step.kernel_width; ++k) {
    Vec pixels;
    if (step.stride_width == 1)
      pixels = load(row + k);
    else if (step.stride_width == 2)
      pixels = even_lanes(load(row + k), load(row + k + kLanes));
    else
      for (int64_t lane = 0; lane < kLanes; ++lane) pixels[lane] = row[k + lane * step.stride_width];
    acc = Fold{}(acc, pixels);
  }
  return acc;
}

void fill(float* from, float* to, float value) {
  for (float* p = from; p < to; ++p) *p = value;
}

// How many columns each window is divided by, up to a whole vector.
void count_columns(const Step& step, float* columns) {
  for (int64_t j = 0; j < step.width + kLanes; ++j) {
    const int64_t start = j * step.stride_width - step.pad_left;
    const bool whole = step.count_padding || j >= step.width;
    columns[j] = static_cast<float>(
        whole ? step.kernel_width : Span(start, step.kernel_width, step.in_width).count());
  }
}

template <typename Fold>
void pool(const Step& step, const float* x, float* y) {
  // One row of the plane with its padding, and room for the windows of a whole vector.
  const int64_t room = step.pad_left + step.in_width +
                       (step.width + kLanes) * step.stride_width + step.kernel_width + kLanes;
  float* row = scratch(0, room);
  float* columns = scratch(1, step.width + kLanes);
  fill(row, row + room, Fold::kStart);
  count_columns(step, columns);
  for (int64_t i = 0; i < step.height; ++i) {
    const Span window(i * step.stride_height - step.pad_top, step.kernel_height, step.in_height);
    fold_rows<Fold>(step, x, window, row + step.pad_left);
    const auto rows =
        static_cast<float>(step.count_padding ? step.kernel_height : window.count());
    float* to = y + i * step.y.pitch;
    for (int64_t j = 0; j < step.width; j += kLanes) {
      Vec acc = fold_columns<Fold>(step, row + j * step.stride_width);
      if (step.op == kAvgPool) acc /= splat(rows) * load(columns + j);
      store_up_to(to + j, acc, step.width - j);
    }
    fill(to + step.width, to + step.y.pitch, 0.0f);
  }
}

}  // namespace

void pool_plane(const Step& step, const float* x, float* y) {
  (step.op == kMaxPool ? pool<Larger> : pool<Sum>)(step, x, y);
}

void mean_plane(const Step& step, const float* x, float* y) {
  constexpr int64_t kHalf = kLanes / 2;
  const auto doubles = [](const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), Doubles);
  };
  Doubles low{}, high{};
  double total = 0.0;
  for (int64_t i = 0; i < step.in_height; ++i) {
    const float* row = x + i * step.x.pitch;
    int64_t j = 0;
    for (; j + kLanes <= step.in_width; j += kLanes) {
      low += doubles(row + j);
      high += doubles(row + j + kHalf);
    }
    for (; j < step.in_width; ++j) total += row[j];
  }
  low += high;
  for (int64_t lane = 0; lane < kHalf; ++lane) total += low[lane];
  *y = static_cast<float>(total / static_cast<double>(step.in_height * step.in_width));
}

void add_plane(const Step& step, const float* x, const float* addend, float* y) {
  for (int64_t i = 0; i < step.height; ++i) {
    const float* row = x + i * step.x.pitch;
    const float* other = addend == nullptr ? nullptr : addend + i * step.addend.pitch;
    float* to = y + i * step.y.pitch;
    for (int64_t j = 0; j < step.width; j += kLanes) {
      const int64_t count = step.width - j;
      Vec acc = load_up_to(row + j, count);
      if (other != nullptr) acc += load_up_to(other + j, count);
      activate<1>(step.activation, &acc);
      store_up_to(to + j, acc, count);
    }
    fill(to + step.width, to + step.y.pitch, 0.0f);
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
