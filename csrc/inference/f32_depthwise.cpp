#include "f32_depthwise.h"

#include "isa.h"

namespace billhook {

DepthwisePlane depthwise_plane_for(int64_t isa) {
  return version_for<DepthwisePlane>(isa, {{kPortable, portable::depthwise_plane},
                                           {kAvx2, avx2::depthwise_plane},
                                           {kAvx512, avx512::depthwise_plane}});
}

}  // namespace billhook
