// Max and average pooling, a plane at a time, from unpadded planes.
#pragma once
#include "steps.h"

namespace billhook {

// The plane y of one channel from its plane x; row ends are zero up to the pitch. kMaxPool: a NaN in
// the window is the maximum, as in torch. kAvgPool: the mean of the pixels inside, or of the window.
using PoolPlane = void (*)(const Step& step, const float* x, float* y);

namespace portable {
void pool_plane(const Step& step, const float* x, float* y);
}
namespace avx2 {
void pool_plane(const Step& step, const float* x, float* y);
}
namespace avx512 {
void pool_plane(const Step& step, const float* x, float* y);
}

}  // namespace billhook
