#include "u8_pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "abi.h"
#include "u8s8_depthwise.h"

namespace billhook {

namespace {

constexpr int64_t kFour = 4;

int64_t up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Four values of a row side by side; zeros beyond the matrix.
int32_t four_at(const S8Matrix& m, int64_t row, int64_t quad) {
  int32_t four = 0;
  if (row >= m.rows) return four;
  const int8_t* own = m.value + row * m.columns + kFour * quad;
  const int64_t count = m.columns - kFour * quad;
  if (count >= kFour)
    std::memcpy(&four, own, sizeof four);  // of a size that is known: no call
  else
    std::memcpy(&four, own, static_cast<size_t>(count));
  return four;
}

bool is_used(const S8Matrix& m, int64_t first, int64_t group, int64_t quad) {
  int32_t any = 0;
  for (int64_t r = first; r < std::min(first + group, m.rows); ++r) any |= four_at(m, r, quad);
  return any != 0;
}

int64_t quads_of(const S8Matrix& m) { return (m.columns + kFour - 1) / kFour; }

// Four values as words, the even ones first.
void put_words(const int8_t* four, int8_t* to) {
  const int16_t words[kFour] = {four[0], four[2], four[1], four[3]};
  std::memcpy(to, words, sizeof words);
}

void put_word(int8_t value, int8_t* to) {
  const int16_t word = value;
  std::memcpy(to, &word, sizeof word);
}

int64_t run_of(const S8Taps& taps) { return taps.words != 0 ? 2 : kFour; }

// The nonzeros of sixteen rows by a window of columns: of each row their columns in the window.
struct Cell {
  uint8_t count[kPackRows];
  uint8_t column[kPackRows][kWindowColumns];
  int64_t steps;
};

void read_cell(const S8Matrix& m, int64_t pack, int64_t window, Cell& cell) {
  cell.steps = 0;
  const int64_t first = kWindowColumns * window;
  const int64_t columns = std::min(kWindowColumns, m.columns - first);
  for (int64_t r = 0; r < kPackRows; ++r) {
    cell.count[r] = 0;
    const int64_t row = kPackRows * pack + r;
    for (int64_t c = 0; row < m.rows && c < columns; ++c)
      if (m.value[row * m.columns + first + c] != 0)
        cell.column[r][cell.count[r]++] = static_cast<uint8_t>(c);
    cell.steps = std::max<int64_t>(cell.steps, (cell.count[r] + kFour - 1) / kFour);
  }
}

// Calls use(place, column, value) for the nonzeros of a step of a cell, by place.
template <typename Use>
void for_step(const S8Matrix& m, const Cell& cell, int64_t pack, int64_t window, int64_t step,
              const Use& use) {
  for (int64_t r = 0; r < kPackRows; ++r)
    for (int64_t n = kFour * step; n < std::min<int64_t>(kFour * (step + 1), cell.count[r]); ++n) {
      const int64_t column = cell.column[r][n];
      use(kFour * r + n % kFour, static_cast<uint8_t>(column),
          m.value[(kPackRows * pack + r) * m.columns + kWindowColumns * window + column]);
    }
}

}  // namespace

int64_t matrix_columns(const S8Filters& f) { return f.taps * up(f.groups * f.inputs, kFour); }

void fill_matrix(const S8Filters& f, int8_t* matrix) {
  const int64_t columns = matrix_columns(f), channels = columns / f.taps;
  std::fill(matrix, matrix + f.rows * columns, int8_t{0});
  for (int64_t r = 0; r < f.rows; ++r) {
    int8_t* own = matrix + r * columns + r / (f.rows / f.groups) * f.inputs;
    for (int64_t i = 0; i < f.inputs; ++i)
      for (int64_t t = 0; t < f.taps; ++t)
        own[t * channels + i] = f.value[(r * f.inputs + i) * f.taps + t];
  }
}

void shift_biases(const S8Matrix& m, const int32_t* bias, int32_t* shifted) {
  for (int64_t r = 0; r < m.rows; ++r) {
    const int8_t* row = m.value + r * m.columns;
    shifted[r] = static_cast<int32_t>(bias[r] + 128 * std::accumulate(row, row + m.columns, int64_t{0}));
  }
}

int64_t block_groups(int64_t rows, int64_t group) { return up(rows, std::max(group, kFour)) / group; }

int64_t count_blocks(const S8Matrix& m, int64_t group, bool all, int32_t* ptr) {
  const int64_t groups = block_groups(m.rows, group), quads = quads_of(m);
  ptr[0] = 0;
  for (int64_t g = 0; g < groups; ++g) {
    int64_t count = all ? quads : 0;
    for (int64_t q = 0; !all && q < quads; ++q) count += is_used(m, g * group, group, q);
    ptr[g + 1] = static_cast<int32_t>(ptr[g] + count);
  }
  return ptr[groups];
}

void fill_blocks(const S8Matrix& m, int64_t group, bool all, bool words, uint16_t* column,
                 int8_t* value) {
  const int64_t size = words ? 2 * kFour : kFour;
  for (int64_t g = 0; g < block_groups(m.rows, group); ++g)
    for (int64_t q = 0; q < quads_of(m); ++q) {
      if (!all && !is_used(m, g * group, group, q)) continue;
      *column++ = static_cast<uint16_t>(q);
      for (int64_t r = g * group; r < (g + 1) * group; ++r, value += size) {
        int8_t four[kFour];
        const int32_t own = four_at(m, r, q);
        std::memcpy(four, &own, sizeof own);
        if (words) put_words(four, value);
        else std::memcpy(value, four, sizeof four);
      }
    }
}

int64_t pack_count(int64_t rows) { return up(rows, kPackRows) / kPackRows; }

int64_t pack_steps(const S8Matrix& m, int64_t group, int32_t* ptr, int32_t* row) {
  const int64_t packs = pack_count(m.rows), of_pack = kPackRows / group, groups = packs * of_pack;
  std::vector<int32_t> length(static_cast<size_t>(groups)), order(length.size());
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t q = 0; q < quads_of(m); ++q)
      length[static_cast<size_t>(g)] += is_used(m, g * group, group, q);
  std::iota(order.begin(), order.end(), 0);
  const auto longer = [&](int32_t a, int32_t b) {
    return length[static_cast<size_t>(a)] > length[static_cast<size_t>(b)];
  };
  if (group < kPackRows) std::stable_sort(order.begin(), order.end(), longer);
  ptr[0] = 0;
  for (int64_t p = 0; p < packs; ++p) {
    int32_t most = 0;
    for (int64_t i = p * of_pack; i < (p + 1) * of_pack; ++i) {
      const int32_t own = order[static_cast<size_t>(i)];
      most = std::max(most, length[static_cast<size_t>(own)]);
      for (int64_t r = 0; r < group; ++r) {
        const int64_t at = own * group + r;
        *row++ = at < m.rows ? static_cast<int32_t>(at) : -1;
      }
    }
    ptr[p + 1] = ptr[p] + most;
  }
  return ptr[packs];
}

void fill_packs(const S8Matrix& m, int64_t group, bool words, const int32_t* ptr, const int32_t* row,
                uint16_t* column, int8_t* value) {
  const int64_t packs = pack_count(m.rows), of_pack = kPackRows / group;
  std::fill(column, column + of_pack * ptr[packs], uint16_t{0});
  std::fill(value, value + kStepBytes * ptr[packs], int8_t{0});
  for (int64_t p = 0; p < packs; ++p)
    for (int64_t i = 0; i < of_pack; ++i) {
      const int32_t first = row[kPackRows * p + group * i];
      int64_t step = ptr[p];
      for (int64_t q = 0; first >= 0 && q < quads_of(m); ++q) {
        if (!is_used(m, first, group, q)) continue;
        column[of_pack * step + i] = static_cast<uint16_t>(q);
        int8_t* own = value + kStepBytes * step++;
        for (int64_t r = 0; r < group; ++r) {
          const int64_t lane = group * i + r;
          const int32_t four = four_at(m, first + r, q);
          int8_t of_row[kFour];
          std::memcpy(of_row, &four, sizeof four);
          for (int64_t k = 0; k < kFour; ++k)  // words: [half][parity][row][pair]
            own[words ? lane / 8 * 32 + k % 2 * 16 + lane % 8 * 2 + k / 2 : kFour * lane + k] = of_row[k];
        }
      }
    }
}

int64_t window_count(int64_t columns) {
  return std::max<int64_t>(1, up(columns, kWindowColumns) / kWindowColumns);
}

int64_t window_steps(const S8Matrix& m, int32_t* ptr) {
  const int64_t cells = pack_count(m.rows) * window_count(m.columns);
  Cell cell;
  ptr[0] = 0;
  for (int64_t i = 0; i < cells; ++i) {
    read_cell(m, i / window_count(m.columns), i % window_count(m.columns), cell);
    ptr[i + 1] = static_cast<int32_t>(ptr[i] + cell.steps);
  }
  return ptr[cells];
}

void fill_windows(const S8Matrix& m, const int32_t* ptr, uint8_t* index, int8_t* value) {
  const int64_t windows = window_count(m.columns), cells = pack_count(m.rows) * windows;
  std::fill(index, index + kStepBytes * ptr[cells], uint8_t{0});
  std::fill(value, value + kStepBytes * ptr[cells], int8_t{0});
  Cell cell;
  for (int64_t i = 0; i < cells; ++i) {
    read_cell(m, i / windows, i % windows, cell);
    for (int64_t step = 0; step < cell.steps; ++step, index += kStepBytes, value += kStepBytes)
      for_step(m, cell, i / windows, i % windows, step, [&](int64_t place, uint8_t column, int8_t own) {
        index[place] = column;
        value[place] = own;
      });
  }
}

void fill_stream(const S8Matrix& m, const int32_t* ptr, uint64_t* mask, int64_t* begin,
                 uint8_t* stream) {
  const int64_t windows = window_count(m.columns), packs = pack_count(m.rows);
  Cell cell;
  int64_t at = 0;
  for (int64_t pack = 0; pack < packs; ++pack) {
    begin[pack] = at;
    for (int64_t window = 0; window < windows; ++window) {
      read_cell(m, pack, window, cell);
      for (int64_t step = 0; step < cell.steps; ++step) {
        uint8_t values[kStepBytes];
        int64_t count = 0;
        uint64_t used = 0;
        for_step(m, cell, pack, window, step, [&](int64_t place, uint8_t column, int8_t own) {
          used |= uint64_t{1} << place;
          stream[at + count] = column;
          values[count++] = static_cast<uint8_t>(own);
        });
        mask[ptr[pack * windows + window] + step] = used;
        std::memcpy(stream + at + count, values, static_cast<size_t>(count));
        at += 2 * count;
      }
    }
  }
  begin[packs] = at;
}

int64_t quads_bytes(const S8Taps& t) {
  const int64_t runs = depthwise_runs(t.width, t.stride, run_of(t));
  return up(t.channels, kFour) / kFour * t.height * runs * depthwise_forms(t.stride) * kTapBytes;
}

void fill_quads(const S8Taps& t, int8_t* value) {
  const int64_t run = run_of(t), runs = depthwise_runs(t.width, t.stride, run);
  const int64_t forms = depthwise_forms(t.stride);
  std::fill(value, value + quads_bytes(t), int8_t{0});
  for (int64_t c = 0; c < t.channels; ++c)
    for (int64_t row = 0; row < t.height; ++row)
      for (int64_t form = 0; form < forms; ++form)
        for (int64_t tap = 0; tap < t.width; ++tap) {
          const int64_t at = tap + form, first = (c / kFour * t.height + row) * runs + at / run;
          int8_t* own = value + (first * forms + form) * kTapBytes + kFour * (c % kFour);
          const int8_t given = t.value[(c * t.height + row) * t.width + tap];
          if (t.words == 0) own[at % run] = given;
          else put_word(given, own + 2 * (at % run));
        }
}

}  // namespace billhook

using billhook::S8Matrix;

// The matrix's columns; filled unless it is null.
BILLHOOK_API int64_t billhook_s8_matrix(const billhook::S8Filters* filters, int8_t* matrix) {
  if (matrix != nullptr) billhook::fill_matrix(*filters, matrix);
  return billhook::matrix_columns(*filters);
}

BILLHOOK_API int64_t billhook_s8_shift_biases(const S8Matrix* m, const int32_t* bias, int32_t* shifted) {
  billhook::shift_biases(*m, bias, shifted);
  return 0;
}

BILLHOOK_API int64_t billhook_s8_count_blocks(const S8Matrix* m, int64_t group, int64_t all,
                                              int32_t* ptr) {
  return billhook::count_blocks(*m, group, all != 0, ptr);
}

BILLHOOK_API int64_t billhook_s8_fill_blocks(const S8Matrix* m, int64_t group, int64_t all,
                                             int64_t words, uint16_t* column, int8_t* value) {
  billhook::fill_blocks(*m, group, all != 0, words != 0, column, value);
  return 0;
}

BILLHOOK_API int64_t billhook_s8_pack_steps(const S8Matrix* m, int64_t group, int32_t* ptr,
                                            int32_t* row) try {
  return billhook::pack_steps(*m, group, ptr, row);
} catch (...) {
  return billhook::failure();
}

BILLHOOK_API int64_t billhook_s8_fill_packs(const S8Matrix* m, int64_t group, int64_t words,
                                            const int32_t* ptr, const int32_t* row, uint16_t* column,
                                            int8_t* value) {
  billhook::fill_packs(*m, group, words != 0, ptr, row, column, value);
  return 0;
}

BILLHOOK_API int64_t billhook_s8_window_steps(const S8Matrix* m, int32_t* ptr) {
  return billhook::window_steps(*m, ptr);
}

BILLHOOK_API int64_t billhook_s8_fill_windows(const S8Matrix* m, const int32_t* ptr, uint8_t* index,
                                              int8_t* value) {
  billhook::fill_windows(*m, ptr, index, value);
  return 0;
}

BILLHOOK_API int64_t billhook_s8_fill_stream(const S8Matrix* m, const int32_t* ptr, uint64_t* mask,
                                             int64_t* begin, uint8_t* stream) {
  billhook::fill_stream(*m, ptr, mask, begin, stream);
  return 0;
}

// The bytes of the quads; filled unless they are null.
BILLHOOK_API int64_t billhook_s8_quads(const billhook::S8Taps* taps, int8_t* value) {
  if (value != nullptr) billhook::fill_quads(*taps, value);
  return billhook::quads_bytes(*taps);
}
