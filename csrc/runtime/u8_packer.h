// What steps in 8 bits point to.
#pragma once
#include "packer.h"
#include "u8_plan.h"

namespace billhook {

// Each is a Refusal where sums, or results before they are saturated, can leave 32 bits.
void pack_u8_conv(Packer& packer, U8Plan& plan);
void pack_u8_depthwise(Packer& packer, U8Plan& plan);
void pack_u8_linear(Packer& packer, U8Plan& plan);

}  // namespace billhook
