// Max and average pooling, means and sums, a plane at a time, from unpadded planes.
#pragma once
#include "steps.h"

namespace billhook {

// The plane y of one channel from its plane x; row ends are zero up to the pitch. kMaxPool: a NaN in
// the window is the maximum, as in torch. kAvgPool: the mean of the pixels inside, or of the window. kMean: y[0]
// is the mean of all pixels, summed in double precision.
using PoolPlane = void (*)(const Step& step, const float* x, float* y);
// y = act(x + addend), row ends zero up to the pitch; addend may be null.
using AddPlane = void (*)(const Step& step, const float* x, const float* addend, float* y);

namespace portable {
void pool_plane(const Step& step, const float* x, float* y);
void mean_plane(const Step& step, const float* x, float* y);
void add_plane(const Step& step, const float* x, const float* addend, float* y);
}
namespace avx2 {
void pool_plane(const Step& step, const float* x, float* y);
void mean_plane(const Step& step, const float* x, float* y);
void add_plane(const Step& step, const float* x, const float* addend, float* y);
}
namespace avx512 {
void pool_plane(const Step& step, const float* x, float* y);
void mean_plane(const Step& step, const float* x, float* y);
void add_plane(const Step& step, const float* x, const float* addend, float* y);
}

}  // namespace billhook
