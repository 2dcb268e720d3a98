#include "entropy.h"

#include <algorithm>

#include "format/rans.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr size_t kHeader = 6;
constexpr int kLimit = 120, kMaxBits = 5;
constexpr uint64_t kShares[8] = {65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194};

struct Axis {
  std::vector<uint8_t> classes;
  int largest = 0;
};

// `count` classes of `bits` bits, packed lowest bit first; multiplied by `step`.
Axis read_axis(const uint8_t*& next, const uint8_t* end, int64_t count, int bits, int step) {
  const size_t size = (static_cast<size_t>(count) * static_cast<size_t>(bits) + 7) / 8;
  require(static_cast<size_t>(end - next) >= size, "an entropy-coded mask is cut off");
  Axis axis{std::vector<uint8_t>(static_cast<size_t>(count)), ((1 << bits) - 1) * step};
  for (size_t i = 0; bits > 0 && i < axis.classes.size(); ++i) {
    int value = 0;
    for (size_t b = 0; b < static_cast<size_t>(bits); ++b) {
      const size_t at = i * static_cast<size_t>(bits) + b;
      value |= (next[at / 8] >> (at % 8) & 1) << b;
    }
    axis.classes[i] = static_cast<uint8_t>(value * step);
  }
  next += size;
  return axis;
}

uint16_t share(int log_odds) {
  const int e = std::clamp(log_odds, -kLimit, kLimit);
  const int h = e >= 0 ? e / 8 : -((7 - e) / 8);
  const uint64_t a = kShares[e - 8 * h] << std::max(h, 0), b = uint64_t{65536} << std::max(-h, 0);
  return static_cast<uint16_t>(std::clamp<uint64_t>((a << 14) / (a + b), 1, 16383));
}

}  // namespace

std::vector<uint8_t> decode_mask(const uint8_t* index, size_t bytes,
                                 const std::vector<int64_t>& shape, int64_t elements) {
  require(bytes >= kHeader, "an entropy-coded mask is cut off");
  const auto step = [](int value) { return value == 1 || value == 2 || value == 4 || value == 8; };
  require(index[0] <= 8 && index[1] <= kMaxBits && index[3] <= kMaxBits && step(index[2]) &&
              step(index[4]) && index[5] <= 2 * kLimit,
          "the header of an entropy-coded mask is not valid");
  const bool flat = shape.size() < 2 || elements == 0;
  const int64_t rows = flat ? 1 : shape[0], columns = flat ? 1 : shape[1];
  const uint8_t *next = index + kHeader, *end = index + bytes;
  const Axis row = read_axis(next, end, rows, index[1], index[2]);
  const Axis column = read_axis(next, end, columns, index[3], index[4]);
  std::vector<uint16_t> table(static_cast<size_t>(row.largest + column.largest + 1));
  for (size_t i = 0; i < table.size(); ++i)
    table[i] = share(static_cast<int>(i) + index[5] - kLimit);
  std::vector<uint8_t> mask(static_cast<size_t>((elements + 7) / 8));
  const int64_t used =
      rans_decode(next, end - next, int64_t{1} << index[0], row.classes.data(), rows,
                           column.classes.data(), columns, elements / (rows * columns),
                           table.data(), mask.data());
  require(used >= 0, "an entropy-coded mask is cut off, or does not end where it should");
  next += used;
  const bool zeros = std::all_of(next, end, [](uint8_t byte) { return byte == 0; });
  const bool least = static_cast<int64_t>(bytes) == (elements + 2047) / 2048;
  require(next == end || (zeros && least), "something follows an entropy-coded mask");
  return mask;
}

}  // namespace billhook
