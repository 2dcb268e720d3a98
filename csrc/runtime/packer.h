// What steps point to: weights, packed for this processor, in memory of their own.
#pragma once
#include <deque>
#include <vector>

#include "container.h"
#include "f32_pack.h"
#include "plan.h"

namespace billhook {

// The nonzeros of a weight as CSR.
struct OwnCsr {
  std::vector<float> value;
  std::vector<int32_t> row_ptr, wide;
  std::vector<uint16_t> narrow;
  Csr csr{};
  int64_t nonzeros = 0;
};

class Packer {
 public:
  // `held` takes the memory, which lives as long as the steps.
  Packer(const Container& file, int64_t isa, std::deque<std::vector<uint64_t>>& held)
      : isa(isa), file(file), held_(held) {}

  OwnCsr csr(const Weight& weight) const;
  const float* bias(const Weight& weight);  // null if it has none
  // Offsets into planes, in groups of eight rows where each eight read the same places.
  SparseRows planes(const Weight& weight);

  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    held_.emplace_back((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t) + 1);
    return reinterpret_cast<T*>(held_.back().data());
  }

  const int64_t isa;
  const Container& file;

 private:
  std::deque<std::vector<uint64_t>>& held_;
};

}  // namespace billhook
