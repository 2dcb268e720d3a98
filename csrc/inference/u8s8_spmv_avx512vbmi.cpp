#if defined(__AVX512VBMI__)
#define BILLHOOK_NAMESPACE avx512vbmi
#include "u8_vec.h"
#include "u8s8_spmv.h"

namespace billhook::avx512vbmi {

namespace {

struct Stream {
  const uint64_t* mask;
  const uint8_t* bytes;

  // Adds the products of one step, whose window is `window`.
  __attribute__((always_inline)) void step(Bytes window, Sums& sums) {
    const uint64_t used = *mask++;
    const int64_t count = _mm_popcnt_u64(used);
    const Bytes index = _mm512_maskz_expand_epi8(used, load(bytes));
    const Bytes value = _mm512_maskz_expand_epi8(used, load(bytes + count));
    bytes += 2 * count;
    dot(sums, _mm512_permutexvar_epi8(index, window), value);
  }
};

}  // namespace

void u8s8_spmv(const WindowRows& w, int64_t first, int64_t last, const uint8_t* x, float step,
               float* y) {
  for (int64_t pack = first; pack < last; ++pack) {
    const int32_t* ptr = w.ptr + pack * w.windows;
    Stream stream{w.mask + ptr[0], w.stream + w.begin[pack]};
    Sums sums = load(w.bias + 16 * pack), other = splat(0);
    for (int64_t b = 0; b < w.windows; ++b) {
      const Bytes window = load(x + 64 * b);
      int64_t steps = ptr[b + 1] - ptr[b];
      for (; steps >= 2; steps -= 2) {
        stream.step(window, sums);
        stream.step(window, other);
      }
      if (steps != 0) stream.step(window, sums);
      for (int line = 0; line < 3; ++line) __builtin_prefetch(stream.bytes + 1024 + 64 * line);
    }
    Floats v = multiply(to_floats(add(sums, other)), load_floats(w.scale + 16 * pack));
    v = multiply(v, splat_float(step));
    if (w.offset != nullptr) v = add(v, load_floats(w.offset + 16 * pack));
    _mm512_mask_storeu_ps(y + 16 * pack, pixels_between(0, w.rows - 16 * pack), v);
  }
}

}  // namespace billhook::avx512vbmi

#endif
