// The pointwise part of a GRU, for the instruction set of the file that includes it.
#include "f32_math.h"
#include "f32_recurrent.h"
#include "vec.h"

namespace billhook::BILLHOOK_NAMESPACE {

void gru_cell(const float* x, const float* u, float* h, int64_t units) {
  for (int64_t j = 0; j < units; j += kLanes) {
    const int64_t count = units - j < kLanes ? units - j : kLanes;
    const Mask lanes = lanes_between(0, count);
    const auto read = [&](const float* p) { return load_where(p + j, lanes); };
    const Vec r = sigmoid(read(x) + read(u)), z = sigmoid(read(x + units) + read(u + units));
    const Vec n = hyperbolic_tangent(fma(r, read(u + 2 * units), read(x + 2 * units)));
    store_up_to(h + j, fma(z, read(h) - n, n), count);
  }
}

}  // namespace billhook::BILLHOOK_NAMESPACE
