// The raw weights of a pruned tensor, and the whole numbers by which they are ranked.
//
// A kept weight lies in the tensor itself, a masked one aside, in a buffer of the tensor's layout
// whose other entries mean nothing. Bit i % 8 of byte i / 8 of a mask belongs to weight i; 1 = kept.
#pragma once
#include <cstdint>
#include <cstring>

namespace billhook {

// What a tensor's elements are: scores to rank as they are, or weights to rank by magnitude.
enum Kind : int64_t { kScores = 0, kFloat32 = 1, kBfloat16 = 2, kFloat16 = 3, kFloat64 = 4 };

struct Raw {
  const void* weight;
  const void* aside;   // null: masked weights do not return and rank below all others
  const uint8_t* held;  // the mask in force; null: nothing is masked
};

// The key of a masked weight that does not return; magnitudes have keys from 0 on.
constexpr int32_t kAbsent = -1;

inline bool kept(const uint8_t* bits, int64_t i) { return bits[i >> 3] >> (i & 7) & 1; }

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The fp32 bits of an IEEE half.
inline uint32_t bits_of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return sign | 0x7f800000u | magnitude << 13;  // infinite or NaN
  if (magnitude >= 0x0400) return sign | ((magnitude << 13) + 0x38000000u);
  return sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f);  // subnormal
}

// Element i as fp32 bits, rounded as torch's conversion rounds it.
template <Kind kind>
inline uint32_t fp32_bits(const void* data, int64_t i) {
  if constexpr (kind == kBfloat16) {
    return static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16;
  } else if constexpr (kind == kFloat16) {
    return bits_of_half(static_cast<const uint16_t*>(data)[i]);
  } else if constexpr (kind == kFloat64) {
    return bits_of(static_cast<float>(static_cast<const double*>(data)[i]));
  } else {
    return bits_of(static_cast<const float*>(data)[i]);
  }
}

inline bool is_nan(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

// A signed number of the same order as the fp32 score; -0.0 and +0.0 get the same one.
inline int32_t score_key(uint32_t bits) {
  if (bits == 0x80000000u) bits = 0;
  const auto key = static_cast<int32_t>(bits);
  return key ^ (key >> 31 & 0x7fffffff);
}

// The key of element i; sets `nan` if it has none.
template <Kind kind>
inline int32_t key_of(const Raw& raw, int64_t i, bool& nan) {
  const void* data = raw.weight;
  if (raw.held != nullptr && !kept(raw.held, i)) {
    if (raw.aside == nullptr) return kAbsent;
    data = raw.aside;
  }
  const uint32_t bits = fp32_bits<kind>(data, i);
  nan |= is_nan(bits);
  return kind == kScores ? score_key(bits) : static_cast<int32_t>(bits & 0x7fffffffu);
}

}  // namespace billhook
