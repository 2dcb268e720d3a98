// Copies that order elements anew.
#pragma once
#include "steps.h"

namespace billhook {

// y[sum of i_d * to[d]] = x[sum of i_d * from[d]] for all 0 <= i_d < size[d] of `dims` dimensions; then
// zeros from width to pitch in the rows of y's `channels` planes.
void run_rearrange(const Step& step, const Operands& at);

// y[j] = x[j] for j < width, from numbers of another type: `function` is one of Number. Mirrored by
// kernels.py.
enum Number : int64_t { kInt64 = 0, kInt32 = 1, kBool = 2 };
void run_cast(const Step& step, const Operands& at);

// y[f, j] = table[x[j], f] for j < width, f < channels: row x[j] of the `in_height` rows of the addend.
// Throws std::out_of_range where there is no such row.
void run_embed(const Step& step, const Operands& at);

// Bilinear interpolation of planes: pixel i of an output of n is at parameters[0] * (i + offset) -
// offset of the input's rows, held within them, and the same for columns with parameters[1];
// offset is 1/2, or 0 if `function` is 1 (aligned corners).
void run_resize(const Step& step, const Operands& at);

}  // namespace billhook
