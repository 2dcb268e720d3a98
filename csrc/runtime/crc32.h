// CRC-32 as zlib computes it, eight bytes at a time.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace billhook {

class Crc32 {
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (; size >= 8; size -= 8, bytes += 8) {
      const uint32_t low = state_ ^ word(bytes), high = word(bytes + 4);
      state_ = kTables[7][low & 255] ^ kTables[6][low >> 8 & 255] ^ kTables[5][low >> 16 & 255] ^
               kTables[4][low >> 24] ^ kTables[3][high & 255] ^ kTables[2][high >> 8 & 255] ^
               kTables[1][high >> 16 & 255] ^ kTables[0][high >> 24];
    }
    for (; size > 0; --size, ++bytes) state_ = kTables[0][(state_ ^ *bytes) & 255] ^ state_ >> 8;
  }
  uint32_t value() const { return ~state_; }

 private:
  static uint32_t word(const uint8_t* p) {
    return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
           static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
  }
  using Tables = std::array<std::array<uint32_t, 256>, 8>;
  static constexpr Tables tables() {
    Tables made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
      made[0][i] = crc;
    }
    for (size_t t = 1; t < 8; ++t)
      for (uint32_t i = 0; i < 256; ++i)
        made[t][i] = made[0][made[t - 1][i] & 255] ^ made[t - 1][i] >> 8;
    return made;
  }
  static const Tables kTables;
  uint32_t state_ = ~0u;
};

inline constexpr Crc32::Tables Crc32::kTables = Crc32::tables();

}  // namespace billhook
