// Functions of one value or two, element by element.
#pragma once
#include "steps.h"

namespace billhook {

// kPointwise, with a and b for the step's parameters. Mirrored by kernels.py.
enum Function : int64_t {
  kAffine = 0,       // a * x + b
  kClamp = 1,        // min(max(x, a), b)
  kLeaky = 2,        // x > 0 ? x : a * x
  kHardSwish = 3,    // x * min(max(x + 3, 0), 6) / 6
  kHardSigmoid = 4,  // min(max(x + 3, 0), 6) / 6
  kSigmoid = 5,
  kSilu = 6,  // x * sigmoid(x)
  kTanh = 7,
  kGelu = 8,
  kGeluTanh = 9,
  kExp = 10,
  kElu = 11,  // x > 0 ? x : a * (e^x - 1)
  kAbs = 12,
  kSqrt = 13,
  kReciprocal = 14,
  kMish = 15,
  kLog = 16,
  kEqual = 17,   // x == a ? 1 : 0
  kChoose = 18,  // x != 0 ? a : b
  kFunctions = 19
};

// kBinary. Comparisons give 1 or 0.
enum BinaryFunction : int64_t {
  kSum = 0,
  kDifference = 1,  // x - y
  kProduct = 2,
  kQuotient = 3,  // x / y
  kLargest = 4,
  kSmallest = 5,
  kPrelu = 6,          // x > 0 ? x : y * x
  kFill2 = 7,          // y != 0 ? a : x
  kLess = 8,           // x < y
  kLessEqual = 9,      // x <= y
  kSame = 10,          // x == y
  kDifferenceOf = 11,  // y - x
  kQuotientOf = 12,    // y / x
  kBinaryFunctions = 13
};

// y[i] = f(x[i]) for i < n.
using PointwiseRow = void (*)(const Step& step, const float* x, float* y, int64_t n);
// y[i] = act(f(x[i], other[i])), or with other[0] for every i if step.from[0] is 0.
using BinaryRow = void (*)(const Step& step, const float* x, const float* other, float* y, int64_t n);

namespace portable {
void pointwise_row(const Step& step, const float* x, float* y, int64_t n);
void binary_row(const Step& step, const float* x, const float* other, float* y, int64_t n);
}
namespace avx2 {
void pointwise_row(const Step& step, const float* x, float* y, int64_t n);
void binary_row(const Step& step, const float* x, const float* other, float* y, int64_t n);
}
namespace avx512 {
void pointwise_row(const Step& step, const float* x, float* y, int64_t n);
void binary_row(const Step& step, const float* x, const float* other, float* y, int64_t n);
}

// The rows of `channels` planes of height x width; row ends are zero up to the pitch. kFill: every
// pixel is parameters[0]. A view with plane or pitch 0 repeats its plane or row.
void run_pointwise(const Step& step, const Operands& at);

}  // namespace billhook
