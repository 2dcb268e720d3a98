#include "f32_pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

#include "abi.h"
#include "isa.h"

namespace billhook {

namespace {

constexpr int64_t kPanelFloats = 8192, kPanelFloats512 = 12288;  // that are in use at a time
constexpr int64_t kMinNonzeros = 12;     // of a row in a block
constexpr int64_t kMaxColumns = 1 << 16;  // of a block: columns have 16 bits

int64_t length(const Csr& csr, int64_t row) { return csr.row_ptr[row + 1] - csr.row_ptr[row]; }

// Rows [first, last) by length, longest first, ties in row order: a counting sort.
void longest_first(const int32_t* lengths, int64_t rows, int32_t* order, std::vector<int32_t>& room) {
  const int32_t most = rows > 0 ? *std::max_element(lengths, lengths + rows) : 0;
  room.assign(static_cast<size_t>(most) + 2, 0);
  for (int64_t r = 0; r < rows; ++r) ++room[static_cast<size_t>(most - lengths[r] + 1)];
  std::partial_sum(room.begin(), room.end(), room.begin());
  for (int64_t r = 0; r < rows; ++r)
    order[room[static_cast<size_t>(most - lengths[r])]++] = static_cast<int32_t>(r);
}

// Nonzeros [begin, end) of a row that are in columns [first, last).
struct Range {
  int64_t begin, end;
};

Range inside(const Csr& csr, int64_t row, int64_t first, int64_t last) {
  const auto find = [&](int64_t column) {
    const int64_t begin = csr.row_ptr[row], end = csr.row_ptr[row + 1];
    return csr.narrow != nullptr
               ? std::lower_bound(csr.narrow + begin, csr.narrow + end, column) - csr.narrow
               : std::lower_bound(csr.wide + begin, csr.wide + end, column) - csr.wide;
  };
  return {find(first), find(last)};
}

void fill_shared_block(const Csr& csr, int64_t first, int64_t last, int32_t* row_ptr,
                       uint16_t* column, float* value) {
  int64_t next = 0;
  row_ptr[0] = 0;
  for (int64_t r = 0; r < csr.rows; r += kGroup) {
    Range range[kGroup];
    for (int64_t i = 0; i < kGroup; ++i) range[i] = inside(csr, r + i, first, last);
    for (int64_t j = 0; j < range[0].end - range[0].begin; ++j, ++next) {
      column[next] = static_cast<uint16_t>(csr.column(range[0].begin + j) - first);
      for (int64_t i = 0; i < kGroup; ++i)
        value[kGroup * next + i] = csr.value[range[i].begin + j];
    }
    row_ptr[r / kGroup + 1] = static_cast<int32_t>(next);
  }
}

typedef uint16_t Eight __attribute__((vector_size(16), aligned(2), may_alias));

// Of each byte the places of its bits, and how many they are.
struct BytePlaces {
  uint16_t places[256][8];
  uint8_t count[256];
};
constexpr BytePlaces made_places() {
  BytePlaces made{};
  for (unsigned byte = 0; byte < 256; ++byte)
    for (unsigned bit = 0; bit < 8; ++bit)
      if (byte >> bit & 1) made.places[byte][made.count[byte]++] = static_cast<uint16_t>(bit);
  return made;
}
constexpr BytePlaces kBytes = made_places();

constexpr int64_t kWord = 56;  // bits of a mask that eight bytes have from any bit on

// The bits from one on, kWord at least if there are so many.
uint64_t bits_from(const uint8_t* mask, int64_t bytes, int64_t first) {
  const int64_t at = first / 8;
  uint64_t bits = 0;
  if (at + 8 <= bytes)
    std::memcpy(&bits, mask + at, 8);
  else
    std::memcpy(&bits, mask + at, static_cast<size_t>(bytes - at));
  return bits >> (first % 8);
}

// Appends the columns of kWord bits, of which the first is column `first`; writes up to kWord places.
int64_t append(uint64_t bits, int64_t first, uint16_t* column) {
  int64_t next = 0;
  for (int64_t at = first; at < first + kWord; at += 8, bits >>= 8) {
    const auto& places = *reinterpret_cast<const Eight*>(kBytes.places[bits & 255]);
    *reinterpret_cast<Eight*>(column + next) = places + static_cast<uint16_t>(at);
    next += kBytes.count[bits & 255];
  }
  return next;
}

template <typename Column>
bool columns_of_mask(const uint8_t* mask, int64_t rows, int64_t columns, int64_t nonzeros,
                     int32_t* row_ptr, Column* column) {
  const int64_t numel = rows * columns, bytes = (numel + 7) / 8;
  int64_t next = 0;
  row_ptr[0] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t first = 0; first < columns; first += kWord) {
      const int64_t count = std::min(kWord, columns - first);
      uint64_t bits = bits_from(mask, bytes, row * columns + first) & ((uint64_t{1} << count) - 1);
      if constexpr (sizeof(Column) == 2)
        if (next + kWord <= nonzeros) {
          next += append(bits, first, column + next);
          continue;
        }
      for (; bits != 0; bits &= bits - 1) {
        if (next >= nonzeros) return false;
        column[next++] = static_cast<Column>(first + std::countr_zero(bits));
      }
    }
    row_ptr[row + 1] = static_cast<int32_t>(next);
  }
  return next == nonzeros && (numel % 8 == 0 || mask[bytes - 1] >> (numel % 8) == 0);
}

}  // namespace

bool rows_of_mask(const uint8_t* mask, int64_t rows, int64_t columns, int64_t nonzeros,
                  int32_t* row_ptr, uint16_t* narrow, int32_t* wide) {
  const auto fill = [&](auto* column) {
    return columns_of_mask(mask, rows, columns, nonzeros, row_ptr, column);
  };
  return narrow != nullptr ? fill(narrow) : fill(wide);
}

bool shares_columns(const Csr& csr) {
  if (csr.rows % kGroup != 0 || csr.row_ptr[csr.rows] == 0) return false;
  for (int64_t r = 0; r < csr.rows; r += kGroup) {
    const int64_t count = length(csr, r), begin = csr.row_ptr[r];
    for (int64_t i = 1; i < kGroup; ++i) {
      if (length(csr, r + i) != count) return false;
      for (int64_t j = 0; j < count; ++j)
        if (csr.column(begin + j) != csr.column(csr.row_ptr[r + i] + j)) return false;
    }
  }
  return true;
}

int64_t lane_steps(const Csr& csr, bool shared, int32_t* group_ptr, int32_t* row) {
  const int64_t groups = (csr.rows + kGroup - 1) / kGroup;
  std::fill(row + csr.rows, row + kGroup * groups, -1);
  if (shared) {
    std::iota(row, row + csr.rows, 0);
  } else {
    std::vector<int32_t> lengths(static_cast<size_t>(csr.rows)), room;
    for (int64_t r = 0; r < csr.rows; ++r)
      lengths[static_cast<size_t>(r)] = static_cast<int32_t>(length(csr, r));
    longest_first(lengths.data(), csr.rows, row, room);
  }
  group_ptr[0] = 0;  // the first row of a group is its longest
  for (int64_t g = 0; g < groups; ++g)
    group_ptr[g + 1] = group_ptr[g] + static_cast<int32_t>(length(csr, row[g * kGroup]));
  return group_ptr[groups];
}

void fill_lanes(const Csr& csr, bool shared, const int32_t* group_ptr, const int32_t* row,
                uint16_t* column, float* value) {
  const int64_t groups = (csr.rows + kGroup - 1) / kGroup;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t lane = 0; lane < kGroup; ++lane) {
      const int32_t r = row[g * kGroup + lane];
      const int64_t begin = r < 0 ? 0 : csr.row_ptr[r], count = r < 0 ? 0 : length(csr, r);
      for (int64_t step = group_ptr[g]; step < group_ptr[g + 1]; ++step) {
        const int64_t j = step - group_ptr[g], place = step * kGroup + lane;
        value[place] = j < count ? csr.value[begin + j] : 0.0f;
        const int64_t at = j < count ? csr.column(begin + j) : csr.columns;
        if (!shared)
          column[place] = static_cast<uint16_t>(at);
        else if (lane == 0)
          column[step] = static_cast<uint16_t>(at);
      }
    }
  }
}

ColumnBlocks column_blocks(int64_t rows, int64_t columns, int64_t nonzeros, int64_t width,
                           int64_t isa) {
  const int64_t floats = lanes_of(isa) == 16 ? kPanelFloats512 : kPanelFloats;
  const int64_t most = std::min(
      kMaxColumns, std::max(floats / width, kMinNonzeros * rows * columns / std::max<int64_t>(nonzeros, 1)));
  const int64_t count = std::max<int64_t>(1, (columns + most - 1) / most);
  return {count, (columns + count - 1) / count};
}

int64_t nonzeros_between(const Csr& csr, int64_t first, int64_t last) {
  int64_t count = 0;
  for (int64_t r = 0; r < csr.rows; ++r) {
    const Range range = inside(csr, r, first, last);
    count += range.end - range.begin;
  }
  return count;
}

void fill_block(const Csr& csr, int64_t first, int64_t last, bool shared, int32_t* row_ptr,
                int32_t* row, uint16_t* column, float* value) {
  if (shared) return fill_shared_block(csr, first, last, row_ptr, column, value);
  std::vector<int32_t> room;
  int64_t next = 0;
  row_ptr[0] = 0;
  for (int64_t chunk = 0; chunk < csr.rows; chunk += kChunk) {
    const int64_t rows = std::min(kChunk, csr.rows - chunk);
    Range range[kChunk];
    int32_t lengths[kChunk];
    for (int64_t r = 0; r < rows; ++r) {
      range[r] = inside(csr, chunk + r, first, last);
      lengths[r] = static_cast<int32_t>(range[r].end - range[r].begin);
    }
    longest_first(lengths, rows, row + chunk, room);
    for (int64_t r = chunk; r < chunk + rows; ++r) {
      const Range& own = range[row[r]];
      row[r] += static_cast<int32_t>(chunk);
      for (int64_t j = own.begin; j < own.end; ++j, ++next) {
        column[next] = static_cast<uint16_t>(csr.column(j) - first);
        value[next] = csr.value[j];
      }
      row_ptr[r + 1] = static_cast<int32_t>(next);
    }
  }
}

void rows_of_lanes(const LaneRows& lanes, int32_t* row_ptr, uint16_t* column, float* value) {
  const auto column_at = [&](int64_t step, int64_t lane) {
    return lanes.column[lanes.shared_columns != 0 ? step : step * kGroup + lane];
  };
  const auto of_rows = [&](auto&& visit) {  // visit(row, lane, first step, last): without the fill
    for (int64_t place = 0; place < kGroup * lanes.groups; ++place) {
      const int64_t g = place / kGroup, lane = place % kGroup, begin = lanes.group_ptr[g];
      if (lanes.row[place] < 0) continue;
      int64_t end = lanes.group_ptr[g + 1];
      while (end > begin && column_at(end - 1, lane) == lanes.columns) --end;
      visit(lanes.row[place], lane, begin, end);
    }
  };
  row_ptr[0] = 0;
  of_rows([&](int64_t row, int64_t, int64_t begin, int64_t end) {
    row_ptr[row + 1] = static_cast<int32_t>(end - begin);
  });
  std::partial_sum(row_ptr, row_ptr + lanes.rows + 1, row_ptr);
  of_rows([&](int64_t row, int64_t lane, int64_t begin, int64_t end) {
    for (int64_t step = begin, j = row_ptr[row]; step < end; ++step, ++j) {
      column[j] = column_at(step, lane);
      value[j] = lanes.value[step * kGroup + lane];
    }
  });
}

void rows_of_blocks(Blocks blocks, int64_t rows, int32_t* row_ptr, uint16_t* narrow, int32_t* wide,
                    float* value) {
  const auto of_rows = [&](auto&& visit) {  // visit(block, row, place of the row in its group, j's)
    for (const SparseRows* b = blocks.first; b != blocks.first + blocks.count; ++b)
      for (int64_t at = 0; at < rows; ++at)
        visit(*b, b->row != nullptr ? b->row[at] : at, at % b->group, b->row_ptr[at / b->group],
              b->row_ptr[at / b->group + 1]);
  };
  std::fill(row_ptr, row_ptr + rows + 1, 0);
  of_rows([&](const SparseRows&, int64_t row, int64_t, int64_t begin, int64_t end) {
    row_ptr[row + 1] += static_cast<int32_t>(end - begin);
  });
  std::partial_sum(row_ptr, row_ptr + rows + 1, row_ptr);
  of_rows([&](const SparseRows& b, int64_t row, int64_t place, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t next = row_ptr[row]++, column = b.first_column + b.column[j];
      if (narrow != nullptr)
        narrow[next] = static_cast<uint16_t>(column);
      else
        wide[next] = static_cast<int32_t>(column);
      value[next] = b.value[b.group * j + place];
    }
  });
  std::copy_backward(row_ptr, row_ptr + rows, row_ptr + rows + 1);  // each is now the next one's
  row_ptr[0] = 0;
}

void tap_offsets(const Taps& taps, int32_t* offset) {
  const auto divide = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); };
  const int64_t phases = taps.stride_height * taps.stride_width;
  for (int64_t channel = 0; channel < taps.inputs; ++channel)
    for (int64_t ky = 0; ky < taps.kernel_height; ++ky)
      for (int64_t kx = 0; kx < taps.kernel_width; ++kx) {
        const int64_t y = ky * taps.dilation_height - taps.pad_top;
        const int64_t x = kx * taps.dilation_width - taps.pad_left;
        const int64_t i = divide(y, taps.stride_height), j = divide(x, taps.stride_width);
        const int64_t phase =
            (y - i * taps.stride_height) * taps.stride_width + x - j * taps.stride_width;
        *offset++ = static_cast<int32_t>((channel * phases + phase) * taps.plane + i * taps.pitch + j);
      }
}

bool shares_offsets(const Csr& csr, const Taps& taps) {
  return (taps.groups == 1 || csr.rows / taps.groups % kGroup == 0) && shares_columns(csr);
}

void fill_planes(const Csr& csr, const Taps& taps, const int32_t* offsets, bool shared,
                 int32_t* row_ptr, int32_t* offset, float* value) {
  const int64_t group = shared ? kGroup : 1, filters = csr.rows / taps.groups;
  const int64_t of_group = taps.inputs * taps.stride_height * taps.stride_width * taps.plane;
  int64_t next = 0;
  row_ptr[0] = 0;
  for (int64_t r = 0; r < csr.rows; r += group) {
    const auto base = static_cast<int32_t>(r / filters * of_group);
    const int64_t begin = csr.row_ptr[r], count = length(csr, r);
    for (int64_t j = 0; j < count; ++j, ++next) {
      offset[next] = base + offsets[csr.column(begin + j)];
      for (int64_t i = 0; i < group; ++i) value[group * next + i] = csr.value[begin + i * count + j];
    }
    row_ptr[r / group + 1] = static_cast<int32_t>(next);
  }
}

}  // namespace billhook

using billhook::Csr;

// 1 if the mask has this many bits set, all of them on elements; then row_ptr and columns are filled.
BILLHOOK_API int64_t billhook_rows_of_mask(const uint8_t* mask, int64_t rows, int64_t columns,
                                           int64_t nonzeros, int32_t* row_ptr, uint16_t* narrow,
                                           int32_t* wide) {
  return billhook::rows_of_mask(mask, rows, columns, nonzeros, row_ptr, narrow, wide);
}

BILLHOOK_API int64_t billhook_shares_columns(const Csr* csr) {
  return billhook::shares_columns(*csr);
}

// The steps of all groups.
BILLHOOK_API int64_t billhook_lane_steps(const Csr* csr, int64_t shared, int32_t* group_ptr,
                                         int32_t* row) try {
  return billhook::lane_steps(*csr, shared != 0, group_ptr, row);
} catch (...) {
  return billhook::failure();
}

BILLHOOK_API int64_t billhook_fill_lanes(const Csr* csr, int64_t shared, const int32_t* group_ptr,
                                         const int32_t* row, uint16_t* column, float* value) {
  billhook::fill_lanes(*csr, shared != 0, group_ptr, row, column, value);
  return 0;
}

// The columns of each block but the last; blocks follow one another up to the last column.
BILLHOOK_API int64_t billhook_block_columns(int64_t rows, int64_t columns, int64_t nonzeros,
                                            int64_t width, int64_t isa) {
  return billhook::column_blocks(rows, columns, nonzeros, width, isa).columns;
}

BILLHOOK_API int64_t billhook_nonzeros_between(const Csr* csr, int64_t first, int64_t last) {
  return billhook::nonzeros_between(*csr, first, last);
}

BILLHOOK_API int64_t billhook_fill_block(const Csr* csr, int64_t first, int64_t last, int64_t shared,
                                         int32_t* row_ptr, int32_t* row, uint16_t* column,
                                         float* value) try {
  billhook::fill_block(*csr, first, last, shared != 0, row_ptr, row, column, value);
  return 0;
} catch (...) {
  return billhook::failure();
}

BILLHOOK_API int64_t billhook_rows_of_lanes(const billhook::LaneRows* lanes, int32_t* row_ptr,
                                            uint16_t* column, float* value) {
  billhook::rows_of_lanes(*lanes, row_ptr, column, value);
  return 0;
}

BILLHOOK_API int64_t billhook_rows_of_blocks(const billhook::Blocks* blocks, int64_t rows,
                                             int32_t* row_ptr, uint16_t* narrow, int32_t* wide,
                                             float* value) {
  billhook::rows_of_blocks(*blocks, rows, row_ptr, narrow, wide, value);
  return 0;
}

BILLHOOK_API int64_t billhook_tap_offsets(const billhook::Taps* taps, int32_t* offset) {
  billhook::tap_offsets(*taps, offset);
  return 0;
}

BILLHOOK_API int64_t billhook_shares_offsets(const Csr* csr, const billhook::Taps* taps) {
  return billhook::shares_offsets(*csr, *taps);
}

BILLHOOK_API int64_t billhook_fill_planes(const Csr* csr, const billhook::Taps* taps,
                                          const int32_t* offsets, int64_t shared, int32_t* row_ptr,
                                          int32_t* offset, float* value) {
  billhook::fill_planes(*csr, *taps, offsets, shared != 0, row_ptr, offset, value);
  return 0;
}
