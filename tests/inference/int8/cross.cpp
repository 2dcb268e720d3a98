// Runs programs in 8 bits on another processor, in an emulator: test_neon.py makes its input.
//
// Standard input has cases until it ends, each of 64-bit integers: isa, pixels, samples, steps, bytes of
// the workspace, of the input, of the result, from sample to sample of both; then the number of blocks
// of memory, each with its size and bytes, the first one the steps; then the number of addresses in
// them, each as block, offset, and the block and offset that it is of; then the input. For each case
// standard output gets whether all was finite, a byte, and the result.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int64_t billhook_u8_run(const void* steps, int64_t count, uint8_t* const* buffers,
                                   const int64_t* strides, int64_t buffer_count, int64_t samples,
                                   int64_t pixels, int64_t threads, int64_t isa);
extern "C" int64_t billhook_isa_supported(int64_t isa);

namespace {

void read(void* to, size_t bytes) {
  if (bytes != 0 && std::fread(to, 1, bytes, stdin) != bytes) std::exit(3);
}

int64_t number() {
  int64_t value;
  read(&value, sizeof value);
  return value;
}

// Zeros that begin at a cache line; never freed.
uint8_t* memory(int64_t bytes) {
  const size_t size = (static_cast<size_t>(bytes) + 64 + 4096) / 64 * 64;
  void* p = std::aligned_alloc(64, size);
  std::memset(p, 0, size);
  return static_cast<uint8_t*>(p);
}

}  // namespace

int main() {
  int64_t isa;
  while (std::fread(&isa, sizeof isa, 1, stdin) == 1) {
    if (billhook_isa_supported(isa) == 0) return 4;
    int64_t given[8];
    for (int64_t& value : given) value = number();
    const auto [pixels, samples, count, space, in, out, in_stride, out_stride] = given;
    std::vector<uint8_t*> blocks(static_cast<size_t>(number()));
    for (uint8_t*& block : blocks) {
      const int64_t size = number();
      block = memory(size);
      read(block, static_cast<size_t>(size));
    }
    for (int64_t left = number(); left > 0; --left) {
      int64_t place[4];
      for (int64_t& value : place) value = number();
      const uint8_t* address = blocks[static_cast<size_t>(place[2])] + place[3];
      std::memcpy(blocks[static_cast<size_t>(place[0])] + place[1], &address, sizeof address);
    }
    uint8_t* buffers[3] = {memory(space), memory(in), memory(out)};
    read(buffers[1], static_cast<size_t>(in));
    const int64_t strides[3] = {0, in_stride, out_stride};
    const auto finite = static_cast<uint8_t>(
        billhook_u8_run(blocks[0], count, buffers, strides, 3, samples, pixels, 1, isa));
    std::fwrite(&finite, 1, 1, stdout);
    std::fwrite(buffers[2], 1, static_cast<size_t>(out), stdout);
  }
  return 0;
}
