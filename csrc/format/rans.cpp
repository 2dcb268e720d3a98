// Interleaved binary rANS over a mask, for the coding "entropy".
//
// Element e = (row, column, inner) of the mask belongs to lane e mod lanes (a power of two) and is 1
// with probability table[rows[row] + columns[column]] / 2^14. Each lane is a state of 32 bits in
// [2^16, 2^32); all lanes share one stream of 16-bit words. format/SPEC.md has the arithmetic.
#include "rans.h"

#include <vector>

#include "isa.h"

namespace billhook {

namespace {

constexpr uint32_t kOne = 1u << kRansPrecision;
constexpr int64_t kMaxLanes = 256, kClasses = 256;
constexpr int64_t kRun = 1 << 14;  // elements whose shares are made at once

bool valid(int64_t lanes) { return lanes >= 1 && lanes <= kMaxLanes && (lanes & (lanes - 1)) == 0; }

uint32_t little_endian(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
         static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
}

// The shares of the elements of rows; those of short rows are kept, for there are few classes of rows.
class Shares {
 public:
  Shares(const uint8_t* column_class, int64_t columns, int64_t inner, const uint16_t* table)
      : column_class_(column_class), length_(columns * inner), inner_(inner), table_(table) {}

  int64_t length() const { return length_; }

  // Of elements [first, last) of a row of this class, at most kRun.
  const uint16_t* of(uint8_t row_class, int64_t first, int64_t last) {
    std::vector<uint16_t>& own = rows_[length_ <= kRun ? row_class : 0];
    if (own.empty() || length_ > kRun) {
      own.clear();
      for (int64_t j = first; j < last;) {
        const uint16_t share = table_[row_class + column_class_[j / inner_]];
        for (int64_t i = j % inner_; i < inner_ && j < last; ++i, ++j) own.push_back(share);
      }
    }
    return own.data();
  }

 private:
  const uint8_t* column_class_;
  int64_t length_, inner_;
  const uint16_t* table_;
  std::vector<uint16_t> rows_[kClasses];
};

// One element; false where the stream is too short.
bool decode_one(RansStream& stream, int64_t element, uint32_t one, uint8_t* mask) {
  uint32_t& state = stream.states[element & (stream.lanes - 1)];
  const uint32_t slot = state & (kOne - 1);
  const uint32_t high = state >> kRansPrecision;
  const bool bit = slot < one;
  state = bit ? one * high + slot : (kOne - one) * high + slot - one;
  mask[element >> 3] |= static_cast<uint8_t>(bit << (element & 7));
  if (state >= kRansLowest) return true;
  if (stream.end - stream.next < 2) return false;
  state = state << 16 | static_cast<uint32_t>(stream.next[1]) << 8 | stream.next[0];
  stream.next += 2;
  return true;
}

using Groups = int64_t (*)(RansStream&, int64_t element, const uint16_t* shares, int64_t count,
                           uint8_t* mask);

// The version that decodes eight lanes at a time, null if there is none.
Groups groups_for([[maybe_unused]] int64_t lanes) {
#if defined(__x86_64__)
  if (lanes >= 8 && supports(kAvx2)) return avx2::rans_groups;
#endif
  return nullptr;
}

bool decode_run(RansStream& stream, int64_t element, const uint16_t* shares, int64_t count,
                Groups groups, uint8_t* mask) {
  int64_t i = 0;
  while (i < count) {
    if (groups != nullptr && (element + i) % 8 == 0)
      i += groups(stream, element + i, shares + i, count - i, mask);
    if (i < count && !decode_one(stream, element + i, shares[i], mask)) return false;
    ++i;
  }
  return true;
}

}  // namespace

int64_t rans_decode(const uint8_t* stream, int64_t bytes, int64_t lanes, const uint8_t* row_class,
                    int64_t rows, const uint8_t* column_class, int64_t columns, int64_t inner,
                    const uint16_t* table, uint8_t* mask) {
  if (!valid(lanes) || bytes < 4 * lanes) return -1;
  uint32_t states[kMaxLanes];
  RansStream own{states, lanes, stream + 4 * lanes, stream + bytes};
  for (int64_t lane = 0; lane < lanes; ++lane) {
    states[lane] = little_endian(stream + 4 * lane);
    if (states[lane] < kRansLowest) return -2;
  }
  Shares shares(column_class, columns, inner, table);
  const Groups groups = groups_for(lanes);
  int64_t element = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t first = 0; first < shares.length(); first += kRun) {
      const int64_t last = first + kRun < shares.length() ? first + kRun : shares.length();
      const uint16_t* run = shares.of(row_class[row], first, last);
      if (!decode_run(own, element, run, last - first, groups, mask)) return -1;
      element += last - first;
    }
  for (int64_t lane = 0; lane < lanes; ++lane)
    if (states[lane] != kRansLowest) return -2;
  return own.next - stream;
}

}  // namespace billhook

BILLHOOK_API int64_t billhook_rans_decode(const uint8_t* stream, int64_t bytes, int64_t lanes,
                                          const uint8_t* row_class, int64_t rows,
                                          const uint8_t* column_class, int64_t columns,
                                          int64_t inner, const uint16_t* table, uint8_t* mask) try {
  return billhook::rans_decode(stream, bytes, lanes, row_class, rows, column_class, columns, inner,
                               table, mask);
} catch (...) {
  return billhook::failure();
}

// Encodes the mask backwards into the end of `stream`. Returns the bytes used, which are the last
// ones of the stream, or -1 when it is too short.
BILLHOOK_API int64_t billhook_rans_encode(const uint8_t* mask, int64_t lanes,
                                          const uint8_t* row_class, int64_t rows,
                                          const uint8_t* column_class, int64_t columns,
                                          int64_t inner, const uint16_t* table, uint8_t* stream,
                                          int64_t bytes) {
  if (!billhook::valid(lanes)) return -1;
  uint32_t states[billhook::kMaxLanes];
  for (int64_t lane = 0; lane < lanes; ++lane) states[lane] = billhook::kRansLowest;
  uint8_t* next = stream + bytes;
  int64_t element = rows * columns * inner - 1;
  for (int64_t row = rows - 1; row >= 0; --row) {
    for (int64_t column = columns - 1; column >= 0; --column) {
      const uint32_t one = table[row_class[row] + column_class[column]];
      for (int64_t i = 0; i < inner; ++i, --element) {
        uint32_t& state = states[element & (lanes - 1)];
        const bool bit = mask[element >> 3] >> (element & 7) & 1;
        const uint32_t share = bit ? one : billhook::kOne - one;
        if (state >= static_cast<uint64_t>(share) << (32 - billhook::kRansPrecision)) {
          if (next - stream < 2) return -1;
          *--next = static_cast<uint8_t>(state >> 8);
          *--next = static_cast<uint8_t>(state);
          state >>= 16;
        }
        state = ((state / share) << billhook::kRansPrecision) + state % share + (bit ? 0 : one);
      }
    }
  }
  if (next - stream < 4 * lanes) return -1;
  for (int64_t lane = lanes - 1; lane >= 0; --lane) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      *--next = static_cast<uint8_t>(states[lane] >> shift);
    }
  }
  return stream + bytes - next;
}
