// Depthwise convolutions of horizontal stride 1 or 2, a plane at a time, from unpadded planes.
#pragma once
#include "steps.h"

namespace billhook {

constexpr int64_t kMaxTaps = 64;  // kernel_height * kernel_width. Mirrored by kernels.py.

// The plane y of one channel from its plane x; row ends are zero up to the pitch.
using DepthwisePlane = void (*)(const Step& step, int64_t channel, const float* x, float* y);

namespace portable {
void depthwise_plane(const Step& step, int64_t channel, const float* x, float* y);
}
namespace avx2 {
void depthwise_plane(const Step& step, int64_t channel, const float* x, float* y);
}
namespace avx512 {
void depthwise_plane(const Step& step, int64_t channel, const float* x, float* y);
}

}  // namespace billhook
