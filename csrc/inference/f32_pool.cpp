#include "f32_pool.h"

#include "isa.h"

namespace billhook {

PoolPlane pool_plane_for(int64_t isa) {
  return version_for<PoolPlane>(isa, portable::pool_plane, avx2::pool_plane, avx512::pool_plane);
}

}  // namespace billhook
