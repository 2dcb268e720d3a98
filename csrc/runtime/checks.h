// Whether what a step reads and writes lies inside its buffers: a file's numbers are not to be trusted.
#pragma once
#include <vector>

#include "container.h"
#include "f32_panel.h"
#include "plan.h"
#include "whole.h"

namespace billhook {

constexpr int64_t kMost = INT32_MAX;      // of every number of a step
constexpr int64_t kMostBytes = PTRDIFF_MAX;  // that an address counts to, on 32 bits too

enum Access : bool { kRead = false, kWritten = true };

// What a file may take: memory and work in proportion to its size, as src/billhook/inference/limits.py.
struct Limits {
  int64_t workspace, opening, work;
  static Limits of(int64_t file_bytes, int64_t input_bytes);
};

struct Needs {
  int64_t weights = 0, packing = 0, session = 0, thread = 0;  // bytes, as in billhook.h
};

// A buffer of steps: its elements, and what they are (a Number, or kFloats).
constexpr int64_t kFloats = -1;
struct Buffer {
  int64_t elements;
  int64_t number = kFloats;
  bool written = true;  // whether steps may write to it
};

// What the checks of each kind of step are made of. Each is a Refusal unless it holds.
class Checker {
 public:
  Checker(const Container& file, std::vector<Buffer> buffers, const Limits& limits, int64_t isa)
      : isa(isa), file_(file), buffers_(std::move(buffers)), limits_(limits) {}
  // A step, and whether it and those before it take no more than the limits.
  template <typename AnyPlan>
  void check(AnyPlan& plan) {
    plan.kind->check(*this, plan);
    within_limits();
  }

  // Elements [first, last) from a view on lie in its buffer of floats.
  void inside(const View& view, Whole first, Whole last, Access access) const;
  // So do planes of height x width; where they are written, up to the pitch. Of `rows` of one the
  // pitch may be anything, as a vector's is 1.
  void planes(const View& view, int64_t channels, int64_t height, int64_t width, Access access) const;
  void rows(const View& view, int64_t channels, int64_t height, int64_t width, Access access) const;
  // What clear_row_ends writes.
  void row_ends(const Step& step, Whole planes);
  // Elements of an input of another number type.
  void integers(const View& view, int64_t count, int64_t number) const;

  struct Matrix {
    int64_t rows, columns, nonzeros;
  };
  // A weight of so many dimensions and its bias; counts what reading it takes.
  Matrix matrix(const Weight& weight, size_t dimensions);
  const Tensor& tensor(const Weight& weight) const { return file_.tensor(weight.tensor); }
  const Tensor& tensor(const std::string& name) const { return file_.tensor(name); }

  // A buffer of scratch memory that running takes, of so many floats.
  void room(int slot, Whole floats);
  // Bytes: of packed weights, and of what else is in use while they are packed.
  void take(Whole weights, Whole packing);
  // Floats that a run reads, and that opening makes.
  void work(Whole floats) { work_ += floats; }
  void opening(Whole floats);

  const int64_t isa;
  Needs needs;
  int64_t scratch[kSlots] = {};

 private:
  void within_limits() const;
  const Buffer& buffer(const View& view) const;
  const Container& file_;
  std::vector<Buffer> buffers_;
  Limits limits_;
  Whole opening_ = 0, work_ = 0;
};

}  // namespace billhook
