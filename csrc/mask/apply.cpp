#include "apply.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "abi.h"
#include "isa.h"
#include "parallel.h"

namespace billhook {

namespace {

constexpr int64_t kBlock = 1 << 18;  // elements of one task, a multiple of 64

template <class Word>
bool zero(void* data, int64_t begin, int64_t end, const uint8_t* bits) {
  auto* words = static_cast<Word*>(data);
  Word found = 0;
  for (int64_t i = begin; i < end; ++i) {
    const auto keep = static_cast<Word>(-static_cast<Word>(bits[i >> 3] >> (i & 7) & 1));
    found = static_cast<Word>(found | (words[i] & static_cast<Word>(~keep)));
    words[i] = static_cast<Word>(words[i] & keep);
  }
  return found != 0;
}

// Calls visit(i, kept now) for every element whose mask bit changed.
template <class Visit>
void for_changed(int64_t begin, int64_t end, const Change& change, const Visit& visit) {
  for (int64_t i = begin; i < end; i += 8) {
    const uint8_t now = change.now[i >> 3];
    unsigned changed = now ^ change.before[i >> 3];
    if (end - i < 8) changed &= (1u << (end - i)) - 1;
    for (; changed != 0; changed &= changed - 1) {
      const int lane = std::countr_zero(changed);
      visit(i + lane, (now >> lane & 1) != 0);
    }
  }
}

template <class Word>
void zero_leaving(void* data, int64_t begin, int64_t end, const Change& change) {
  auto* words = static_cast<Word*>(data);
  for_changed(begin, end, change, [&](int64_t i, bool returns) {
    if (!returns) words[i] = 0;
  });
}

template <class Word>
void exchange(void* weight, void* aside, int64_t begin, int64_t end, const Change& change) {
  auto* weights = static_cast<Word*>(weight);
  auto* values = static_cast<Word*>(aside);
  for_changed(begin, end, change,
              [&](int64_t i, bool returns) { exchange_one(weights, values, i, returns); });
}

const Apply* versions_of(int64_t isa, int64_t itemsize) {
  using Versions = const Apply* (*)(int64_t);
  return version_for<Versions>(isa, {{kPortable, apply_portable}, {kAvx2, apply_avx2}})(itemsize);
}

// Calls body(begin, end) for blocks that cover n elements.
template <class Body>
void in_blocks(int64_t n, int64_t threads, const Body& body) {
  parallel_for((n + kBlock - 1) / kBlock, threads, [&](int64_t block) {
    body(block * kBlock, std::min((block + 1) * kBlock, n));
  });
}

}  // namespace

const Apply* apply_portable(int64_t itemsize) {
  static constexpr Apply two{zero<uint16_t>, zero_leaving<uint16_t>, exchange<uint16_t>};
  static constexpr Apply four{zero<uint32_t>, zero_leaving<uint32_t>, exchange<uint32_t>};
  static constexpr Apply eight{zero<uint64_t>, zero_leaving<uint64_t>, exchange<uint64_t>};
  return itemsize == 2 ? &two : itemsize == 4 ? &four : itemsize == 8 ? &eight : nullptr;
}

}  // namespace billhook

// Writes +0 into each of n elements whose mask bit is 0. Returns whether one of them was anything
// else before (-0 and NaN are), or -1 if the element size is none of 2, 4, 8.
BILLHOOK_API int64_t billhook_mask_zero(void* data, int64_t itemsize, int64_t n,
                                        const uint8_t* bits, int64_t isa, int64_t threads) {
  using namespace billhook;
  const Apply* apply = versions_of(isa, itemsize);
  if (apply == nullptr) return -1;
  std::atomic<bool> found{false};
  in_blocks(n, threads, [&](int64_t begin, int64_t end) {
    if (apply->zero(data, begin, end, bits)) found = true;
  });
  return found.load();
}

// Writes +0 into each of n elements whose mask bit is 0 now and was 1 before. Returns 0, or -1 if the element size is none of 2, 4, 8.
BILLHOOK_API int64_t billhook_mask_zero_leaving(void* data, int64_t itemsize, int64_t n,
                                                const uint8_t* before, const uint8_t* now,
                                                int64_t isa, int64_t threads) {
  using namespace billhook;
  const Apply* apply = versions_of(isa, itemsize);
  if (apply == nullptr) return -1;
  in_blocks(n, threads, [&](int64_t begin, int64_t end) {
    apply->zero_leaving(data, begin, end, {before, now});
  });
  return 0;
}

// Moves each weight whose mask bit becomes 0 aside and leaves +0, and each whose bit becomes 1
// back; then `bits` are `now`. Entries of `aside` that are not masked mean nothing, before and
// after. Returns 0, or -1 if the element size is none of 2, 4, 8.
BILLHOOK_API int64_t billhook_mask_exchange(void* weight, void* aside, int64_t itemsize, int64_t n,
                                            uint8_t* bits, const uint8_t* now, int64_t isa,
                                            int64_t threads) {
  using namespace billhook;
  const Apply* apply = versions_of(isa, itemsize);
  if (apply == nullptr) return -1;
  in_blocks(n, threads, [&](int64_t begin, int64_t end) {
    apply->exchange(weight, aside, begin, end, {bits, now});
  });
  std::memcpy(bits, now, static_cast<size_t>((n + 7) / 8));
  return 0;
}
