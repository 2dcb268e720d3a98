// CRC-32 as zlib computes it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace billhook {

class Crc32 {
 public:
  void add(const void* data, size_t size);
  uint32_t value() const { return ~state_; }

 private:
  uint32_t state_ = ~0u;
};

namespace pclmul {
// The remainder of `state` and data of a multiple of 64 bytes, not none, as 16 bytes: their CRC, begun
// with a state of 0, is that of all.
void crc_folded(uint32_t state, const uint8_t* data, size_t size, uint8_t* folded);
}  // namespace pclmul

}  // namespace billhook
