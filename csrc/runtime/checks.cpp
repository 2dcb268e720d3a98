#include "checks.h"

#include <algorithm>

#include "refusal.h"

namespace billhook {

namespace {

constexpr int64_t kFloatsPerByte = 4096, kWorkPerByte = 1 << 16, kLeastFloats = 1 << 24;
constexpr int64_t kColumnFloats = 6;

}  // namespace

void refuse_overflow() { refuse("its numbers come to more than any program counts"); }

Limits Limits::of(int64_t file_bytes, int64_t input_bytes) {
  const int64_t both = file_bytes + input_bytes;
  return {kFloatsPerByte * both, std::max(kLeastFloats, kFloatsPerByte * file_bytes),
          kWorkPerByte * both};
}

void Checker::within_limits() const {
  require(work_ <= limits_.work, "its steps take more work than the sizes of the file and of its inputs "
                                 "allow: the file may be hostile");
}

void Checker::room(int slot, Whole floats) {
  require(floats <= kMost, "a step needs more scratch memory than any program does");
  scratch[slot] = std::max(scratch[slot], static_cast<int64_t>(floats));
}

void Checker::take(Whole weights, Whole packing) {
  require(weights <= kMostBytes / 4 - needs.weights && packing <= kMostBytes / 4,
          "a weight takes more memory than this machine can address");
  needs.weights += static_cast<int64_t>(weights);
  needs.packing = std::max(needs.packing, static_cast<int64_t>(packing));
}

void Checker::opening(Whole floats) {
  opening_ += floats;
  require(opening_ <= limits_.opening, "opening it takes more memory than the size of the file allows: "
                                       "the file may be hostile");
}

const Buffer& Checker::buffer(const View& view) const {
  require(view.buffer >= 0 && view.buffer < static_cast<int64_t>(buffers_.size()),
          "a step uses a buffer that does not exist");
  return buffers_[static_cast<size_t>(view.buffer)];
}

void Checker::inside(const View& view, Whole first, Whole last, Access access) const {
  const Buffer& own = buffer(view);
  require(own.number == kFloats, "a step reads whole numbers as floats");
  require(access == kRead || own.written, "a step writes to an input");
  require(view.offset + first >= 0 && view.offset + last <= own.elements,
          "a step reads or writes outside of its buffer");
}

void Checker::planes(const View& view, int64_t channels, int64_t height, int64_t width,
                     Access access) const {
  const bool written = access == kWritten;
  const Whole last = Whole(channels - 1) * view.plane + Whole(height - 1) * view.pitch +
                     (written ? std::max(width, view.pitch) : width);
  require(channels > 0 && height > 0 && width > 0, "a step works on planes of no size");
  require(!written || view.pitch >= width, "a step writes rows that are longer than their pitch");
  inside(view, 0, last, access);
}

void Checker::rows(const View& view, int64_t channels, int64_t height, int64_t width,
                   Access access) const {
  View own = view;
  if (height == 1) own.pitch = std::max(own.pitch, width);
  planes(own, channels, height, width, access);
}

void Checker::row_ends(const Step& step, Whole planes) {
  if (step.y.pitch <= step.width || step.height == 0) return;
  inside(step.y, 0,
         (planes - 1) * step.y.plane + Whole(step.height) * step.y.pitch, kWritten);
  work(planes * step.height * step.y.pitch);
}

void Checker::integers(const View& view, int64_t count, int64_t number) const {
  const Buffer& own = buffer(view);
  require(own.number == number, "a step converts numbers of another type than its input has");
  require(view.offset == 0 && count <= own.elements, "a step reads outside of its buffer");
}

Checker::Matrix Checker::matrix(const Weight& weight, size_t dimensions) {
  require(weight.present, "a step has no weight");
  const Tensor& own = tensor(weight);
  require(own.dtype == "F32" && own.shape.size() == dimensions && own.elements() > 0,
          "a weight is of another type or number of dimensions than its step takes");
  const int64_t rows = own.shape[0], columns = own.elements() / rows;
  require(rows <= kMost && columns <= kMost, "a weight has more rows or columns than are counted");
  if (!weight.bias.empty()) {
    const Tensor& bias = file_.tensor(weight.bias);
    require(bias.dtype == "F32" && bias.shape == std::vector<int64_t>{rows},
            "a bias does not fit its weight");
  }
  const auto nnz = own.params.find("nnz");
  const int64_t stored = own.stored();  // refuses an entry that does not fit its record
  const int64_t nonzeros = nnz == own.params.end() ? stored : nnz->second;
  require(nonzeros <= kMost, "a weight has more nonzeros than are counted");
  opening(Whole(kColumnFloats) * columns + 2 * rows);
  // The nonzeros beside the entry they come from, then with a row_ptr and columns.
  const Whole mask = (Whole(rows) * columns + 7) / 8;
  const Whole coded = own.end - own.begin;
  take(4 * Whole(rows), mask + 4 * Whole(nonzeros) +
                    std::max(coded, 4 * Whole(rows + nonzeros) + 8 * columns));
  return {rows, columns, nonzeros};
}

}  // namespace billhook
