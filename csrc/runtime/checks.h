// Whether what a step reads and writes lies inside its buffers: a file's numbers are not to be trusted.
#pragma once
#include "program.h"

namespace billhook {

constexpr int64_t kMost = INT32_MAX;  // of every number of a step, so that products fit 128 bits

// What a file may take: memory and work in proportion to its size, as src/billhook/inference/limits.py.
struct Limits {
  int64_t workspace, opening, work;
  static Limits of(int64_t file_bytes, int64_t input_bytes);
};

class Checker {
 public:
  Checker(const Container& file, std::vector<int64_t> buffers, size_t inputs, int64_t isa)
      : file_(file), buffers_(std::move(buffers)), inputs_(inputs), isa_(isa) {}
  // Refusal unless the step is sound; adds what it takes to the sums below.
  void check(Plan& plan);
  void finish(const Limits& limits) const;  // Refusal if all steps take too much

  Needs needs;
  int64_t scratch[kSlots] = {};

 private:
  struct Matrix {
    int64_t rows, columns, nonzeros;
  };
  Matrix matrix(Plan::Weight& weight, size_t dimensions);
  void taps(Plan::Weight& weight, const Tensor& tensor, int64_t columns);
  void inside(const View& view, __int128 first, __int128 last, bool written) const;
  void planes(const View& view, int64_t channels, int64_t height, int64_t width, bool written) const;
  void reads_taps(const Plan::Weight& weight, const View& x, int64_t pixels) const;
  void spmm(Plan& plan);
  void depthwise(Plan& plan);
  void linear(Plan& plan);
  void maps(const Step& step);
  void elements(const Step& step);
  void rearrange(const Step& step);
  void room(int slot, __int128 floats);
  void take(__int128 weights, __int128 packing);

  const Container& file_;
  std::vector<int64_t> buffers_;  // floats of each
  size_t inputs_;
  int64_t isa_;
  __int128 opening_ = 0, work_ = 0;  // floats
};

}  // namespace billhook
