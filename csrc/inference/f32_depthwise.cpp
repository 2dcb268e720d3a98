#include "f32_depthwise.h"

#include "isa.h"

namespace billhook {

DepthwisePlane depthwise_plane_for(int64_t isa) {
  return version_for<DepthwisePlane>(isa, portable::depthwise_plane, avx2::depthwise_plane,
                                     avx512::depthwise_plane);
}

}  // namespace billhook
