#include "f32_pool.h"

#include "isa.h"

namespace billhook {

PoolPlane pool_plane_for(int64_t isa) {
  return version_for<PoolPlane>(isa, {{kPortable, portable::pool_plane},
                                      {kAvx2, avx2::pool_plane},
                                      {kAvx512, avx512::pool_plane}});
}

}  // namespace billhook
