// The kernels of reduce.h, for the instruction set of the file that includes it.
#include <cmath>

#include "f32_math.h"
#include "f32_reduce.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

BILLHOOK_INLINE Vec larger(Vec a, Vec b) { return (b > a) | (b != b) ? b : a; }
BILLHOOK_INLINE Vec smaller(Vec a, Vec b) { return (b < a) | (b != b) ? b : a; }

BILLHOOK_INLINE double total(Vec v) {
  double sum = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(v[lane]);
  return sum;
}

BILLHOOK_INLINE float largest(Vec v) {
  float most = v[0];
  for (int64_t lane = 1; lane < kLanes; ++lane)
    if (v[lane] > most || v[lane] != v[lane]) most = v[lane];
  return most;
}

// The sum of f over a row; lanes beyond its end count as `rest`.
template <typename F>
BILLHOOK_INLINE double row_sum(const float* x, int64_t n, const F& f) {
  Vec acc = splat(0.0f);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) acc += f(load(x + j));
  double sum = total(acc);
  for (; j < n; ++j) sum += static_cast<double>(f(splat(x[j]))[0]);
  return sum;
}

// For softmax: what is subtracted, so that a column of -infinity alone gives zeros and not NaN.
BILLHOOK_INLINE Vec finite_or_zero(Vec v) { return v == splat(-kInfinity) ? splat(0.0f) : v; }

}  // namespace

int64_t vector_lanes() { return kLanes; }

void normalise_columns(const Step& step, const Reduced& r, int64_t count) {
  const Mask lanes = lanes_between(0, count);
  const int64_t n = step.channels, from = step.x.plane, to = step.y.plane;
  const Vec share = splat(1.0f / static_cast<float>(n));
  Vec mean = splat(0.0f), square = splat(0.0f);
  if (step.size[1] != 0) {
    for (int64_t c = 0; c < n; ++c) mean += load_where(r.x + c * from, lanes);
    mean *= share;
  }
  for (int64_t c = 0; c < n; ++c) {
    const Vec d = load_where(r.x + c * from, lanes) - mean;
    square = fma(d, d, square);
  }
  const Vec inverse =
      splat(1.0f) / square_root(square * share + splat(static_cast<float>(step.parameters[0])));
  for (int64_t c = 0; c < n; ++c) {
    Vec v = (load_where(r.x + c * from, lanes) - mean) * inverse;
    if (r.scale != nullptr) v *= splat(r.scale[c]);
    if (r.shift != nullptr) v += splat(r.shift[c]);
    store_up_to(r.y + c * to, v, count);
  }
}

void normalise_group(const Step& step, const Reduced& r, int64_t planes) {
  const int64_t rows = planes * step.height;
  const auto row = [&](int64_t i) {
    return r.x + i / step.height * step.x.plane + i % step.height * step.x.pitch;
  };
  const auto n = static_cast<double>(rows * step.width);
  double sum = 0.0, square = 0.0;
  if (step.size[1] != 0)
    for (int64_t i = 0; i < rows; ++i) sum += row_sum(row(i), step.width, [](Vec v) { return v; });
  const Vec mean = splat(static_cast<float>(sum / n));
  for (int64_t i = 0; i < rows; ++i)
    square += row_sum(row(i), step.width, [&](Vec v) { return (v - mean) * (v - mean); });
  const Vec inverse = splat(static_cast<float>(1.0 / std::sqrt(square / n + step.parameters[0])));
  const bool by_column = step.function == kWithinRow;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t c = i / step.height;
    float* y = r.y + c * step.y.plane + i % step.height * step.y.pitch;
    for (int64_t j = 0; j < step.width; j += kLanes) {
      const int64_t count = step.width - j < kLanes ? step.width - j : kLanes;
      const Mask lanes = lanes_between(0, count);
      Vec v = (load_where(row(i) + j, lanes) - mean) * inverse;
      if (r.scale != nullptr) v *= by_column ? load_where(r.scale + j, lanes) : splat(r.scale[c]);
      if (r.shift != nullptr) v += by_column ? load_where(r.shift + j, lanes) : splat(r.shift[c]);
      store_up_to(y + j, v, count);
    }
  }
}

void softmax_columns(const Reduced& r, int64_t x_stride, int64_t y_stride, int64_t size,
                     int64_t count, bool log) {
  const Mask lanes = lanes_between(0, count);
  Vec most = splat(-kInfinity), sum = splat(0.0f);
  for (int64_t k = 0; k < size; ++k) most = larger(most, load_where(r.x + k * x_stride, lanes));
  most = finite_or_zero(most);
  for (int64_t k = 0; k < size; ++k) {
    const Vec d = load_where(r.x + k * x_stride, lanes) - most;
    const Vec e = exponential_to_zero(d);
    sum += e;
    store_up_to(r.y + k * y_stride, log ? d : e, count);
  }
  const Vec end = log ? logarithm(sum) : sum > splat(0.0f) ? splat(1.0f) / sum : sum;
  for (int64_t k = 0; k < size; ++k) {
    const Vec v = load_where(r.y + k * y_stride, lanes);
    store_up_to(r.y + k * y_stride, log ? v - end : v * end, count);
  }
}

void softmax_row(const Reduced& r, int64_t n, bool log) {
  Vec most = splat(-kInfinity);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) most = larger(most, load(r.x + j));
  for (; j < n; ++j) most = larger(most, splat(r.x[j]));
  const Vec shift = finite_or_zero(splat(largest(most)));
  for (j = 0; j < n; j += kLanes) {
    const int64_t count = n - j < kLanes ? n - j : kLanes;
    const Vec d = load_where(r.x + j, lanes_between(0, count)) - shift;
    store_up_to(r.y + j, log ? d : exponential_to_zero(d), count);
  }
  double sum = row_sum(r.y, n, [&](Vec v) { return log ? exponential_to_zero(v) : v; });
  if (sum == 0.0) sum = 1.0;
  const Vec end = splat(static_cast<float>(log ? std::log(sum) : 1.0 / sum));
  for (j = 0; j < n; j += kLanes) {
    const int64_t count = n - j < kLanes ? n - j : kLanes;
    const Vec v = load_where(r.y + j, lanes_between(0, count));
    store_up_to(r.y + j, log ? v - end : v * end, count);
  }
}

void reduce_columns(const Step& step, const float* x, float* y, int64_t count) {
  const Mask lanes = lanes_between(0, count);
  Vec acc = load_where(x, lanes);
  for (int64_t c = 1; c < step.channels; ++c) {
    const Vec v = load_where(x + c * step.x.plane, lanes);
    acc = step.function <= 1 ? acc + v : step.function == 2 ? larger(acc, v) : smaller(acc, v);
  }
  if (step.function == 0) acc *= splat(1.0f / static_cast<float>(step.channels));
  store_up_to(y, acc, count);
}

}  // namespace billhook::BILLHOOK_NAMESPACE
