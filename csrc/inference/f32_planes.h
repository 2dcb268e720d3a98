// Copies of planes, and the ends of their rows.
#pragma once
#include "steps.h"

namespace billhook {

// Phase (a, b) of a stride (sh, sw) holds y[i, j] = x[i * sh + a, j * sw + b], zero where x ends and
// up to the pitch. The phases of one channel lie one after another, y.plane / (sh * sw) apart.
void copy_phases(const Step& step, const float* x, float* y);
// Zeros between the width and the pitch of the rows of y, the first of `planes` planes.
void clear_row_ends(const Step& step, float* y, int64_t planes);

}  // namespace billhook
