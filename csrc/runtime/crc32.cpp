// Eight bytes at a time by tables; where the processor multiplies without carries, 64 of them.
#include "crc32.h"

#include <array>

namespace billhook {

namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables made_tables() {
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

constexpr Tables kTables = made_tables();

uint32_t word(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
         static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
}

uint32_t by_tables(uint32_t state, const uint8_t* bytes, size_t size) {
  for (; size >= 8; size -= 8, bytes += 8) {
    const uint32_t low = state ^ word(bytes), high = word(bytes + 4);
    state = kTables[7][low & 255] ^ kTables[6][low >> 8 & 255] ^ kTables[5][low >> 16 & 255] ^
            kTables[4][low >> 24] ^ kTables[3][high & 255] ^ kTables[2][high >> 8 & 255] ^
            kTables[1][high >> 16 & 255] ^ kTables[0][high >> 24];
  }
  for (; size > 0; --size, ++bytes) state = kTables[0][(state ^ *bytes) & 255] ^ state >> 8;
  return state;
}

[[maybe_unused]] bool multiplies() {
#if defined(__x86_64__)
  static const bool found = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  }();
  return found;
#else
  return false;
#endif
}

}  // namespace

void Crc32::add(const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
#if defined(__x86_64__)
  if (const size_t whole = size / 64 * 64; whole > 0 && multiplies()) {
    uint8_t folded[16];
    pclmul::crc_folded(state_, bytes, whole, folded);
    state_ = by_tables(0, folded, sizeof folded);
    bytes += whole;
    size -= whole;
  }
#endif
  state_ = by_tables(state_, bytes, size);
}

}  // namespace billhook
