// A matrix times vectors: linear layers, LSTM and GRU.
#include <algorithm>

#include "kinds.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr int64_t kMaxColumns = (1 << 16) - 1;  // that two bytes count, and one for the fill

// The columns of a weight that a step has: all, or the block that begins at its first column.
struct Range {
  int64_t first, last;
  bool begins, ends;
};

Range range_of(const Weight& weight, int64_t columns) {
  if (!weight.has_columns) return {0, columns, true, true};
  const int64_t last = std::min(weight.first_column + kMaxColumns, columns);
  return {weight.first_column, last, weight.first_column == 0, last == columns};
}

// Counts what lanes take; the columns of the step.
int64_t check_lanes(Checker& check, const Weight& weight, const Checker::Matrix& w) {
  require(!weight.has_columns || weight.first_column < w.columns,
          "a step has columns that its weight lacks");
  const Range range = range_of(weight, w.columns);
  const int64_t columns = range.last - range.first;
  require(columns <= kMaxColumns, "a matrix has more columns than its kernel counts");
  check.room(2, columns + 1);
  // The longest row of a group is no longer than the shortest one of the group before.
  const Whole slots = Whole(w.nonzeros) + 8 * columns;
  check.take(6 * slots + 5 * (Whole(w.rows) + 8) + 16,
             8 * Whole(w.rows) + (weight.has_columns ? 6 * slots : 0));
  return columns;
}

void check_linear(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  const Checker::Matrix w = check.matrix(plan.weight, 2);
  check.inside(step.x, 0, check_lanes(check, plan.weight, w), kRead);
  if (step.addend.buffer >= 0) check.inside(step.addend, 0, w.rows, kRead);
  check.inside(step.y, 0, w.rows, kWritten);
  check.work(Whole(w.rows) * w.columns);
}

// Some columns, counted from the first of them.
OwnCsr columns_between(const OwnCsr& from, int64_t first, int64_t last) {
  OwnCsr own;
  const int64_t rows = from.csr.rows;
  own.row_ptr.assign(static_cast<size_t>(rows) + 1, 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = from.csr.row_ptr[r]; j < from.csr.row_ptr[r + 1]; ++j) {
      const int64_t column = from.csr.column(j);
      if (column < first || column >= last) continue;
      own.narrow.push_back(static_cast<uint16_t>(column - first));
      own.value.push_back(from.csr.value[j]);
    }
    own.row_ptr[static_cast<size_t>(r) + 1] = static_cast<int32_t>(own.value.size());
  }
  own.nonzeros = static_cast<int64_t>(own.value.size());
  own.csr = {rows, last - first, own.row_ptr.data(), own.narrow.data(), nullptr, own.value.data()};
  return own;
}

void pack_lanes(Packer& packer, Plan& plan) {
  OwnCsr own = packer.csr(plan.weight);
  const Range range = range_of(plan.weight, own.csr.columns);
  if (plan.weight.has_columns) own = columns_between(own, range.first, range.last);
  const Csr& csr = own.csr;
  const bool shared = shares_columns(csr);
  const int64_t groups = (csr.rows + kGroup - 1) / kGroup;
  auto* group_ptr = packer.take<int32_t>(groups + 1);
  auto* row = packer.take<int32_t>(groups * kGroup);
  const int64_t steps = lane_steps(csr, shared, group_ptr, row);
  auto* column = packer.take<uint16_t>(shared ? steps : steps * kGroup);
  auto* value = packer.take<float>(steps * kGroup);
  fill_lanes(csr, shared, group_ptr, row, column, value);
  plan.step.lanes = {csr.rows, csr.columns, groups, range.ends ? plan.weight.activation : kNone,
                     shared,   group_ptr,   column, value,
                     row,      range.begins ? packer.bias(plan.weight) : nullptr};
}

void check_recurrent(Checker& check, Plan& plan) {
  const Step& step = plan.step;
  const Checker::Matrix w = check.matrix(plan.weight, 2);
  const int64_t gates = step.op == kLstm ? 4 : 3, units = w.columns;
  const bool cells = step.size[1] == 1;
  require(!plan.weight.has_columns && w.rows == gates * units && step.width > 0 &&
              step.size[0] <= 1 && step.size[1] <= (step.op == kLstm ? 1 : 0),
          "a recurrent step does not fit its matrix");
  check_lanes(check, plan.weight, w);
  const int64_t made = cells ? 2 * units : units;
  check.inside(step.x, 0, Whole(w.rows - 1) * step.x.plane + step.width, kRead);
  for (const View* state : {&step.addend, &step.extra})
    if (state->buffer >= 0) check.inside(*state, 0, units, kRead);
  check.inside(step.y, 0, Whole(made - 1) * step.y.plane + step.width, kWritten);
  check.row_ends(step, made);
  check.room(4, Whole(step.width) * w.rows);
  check.room(5, Whole(step.width) * made);
  check.room(6, w.rows);
  check.room(7, 2 * units);
  check.work(Whole(w.rows) * (w.columns + 16) * step.width);
}

constexpr Kind kKinds[] = {{"linear", kLinear, check_linear, pack_lanes},
                           {"lstm", kLstm, check_recurrent, pack_lanes},
                           {"gru", kGru, check_recurrent, pack_lanes}};

}  // namespace

std::span<const Kind> matrix_kinds() { return kKinds; }

}  // namespace billhook
