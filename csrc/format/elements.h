// Elements of 1, 2, 4 or 8 bytes at addresses that need not be aligned.
#pragma once
#include <cstdint>
#include <cstring>

namespace billhook {

template <class T>
inline T load(const uint8_t* source, int64_t index) {
  T value;
  std::memcpy(&value, source + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
inline void store(uint8_t* target, int64_t index, T value) {
  std::memcpy(target + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

// Calls f(T{}) with the unsigned type of `width` bytes; -2 for any other width.
template <class F>
inline int64_t with_width(int64_t width, F f) {
  switch (width) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    case 8: return f(uint64_t{});
    default: return -2;
  }
}

}  // namespace billhook
