#include "packer.h"

#include <algorithm>

#include "refusal.h"

namespace billhook {

OwnCsr Packer::csr(const Weight& weight) const {
  const Tensor& tensor = file.tensor(weight.tensor);
  const int64_t rows = tensor.shape[0], columns = tensor.elements() / rows;
  Nonzeros<float> found = file.nonzeros(tensor);
  OwnCsr own;
  own.value = std::move(found.values);
  own.nonzeros = static_cast<int64_t>(own.value.size());
  own.row_ptr.resize(static_cast<size_t>(rows) + 1);
  const bool narrow = columns < 1 << 16;
  if (narrow)
    own.narrow.resize(own.value.size());
  else
    own.wide.resize(own.value.size());
  const bool sound = rows_of_mask(found.mask.data(), rows, columns, own.nonzeros, own.row_ptr.data(),
                                  narrow ? own.narrow.data() : nullptr, own.wide.data());
  require(sound, "the mask of a weight does not fit its values");
  own.csr = {rows, columns, own.row_ptr.data(), narrow ? own.narrow.data() : nullptr,
             own.wide.data(), own.value.data()};
  return own;
}

const float* Packer::bias(const Weight& weight) {
  if (weight.bias.empty()) return nullptr;
  const Tensor& tensor = file.tensor(weight.bias);
  auto* own = take<float>(tensor.elements());
  file.floats(tensor, own);
  return own;
}

SparseRows Packer::planes(const Weight& weight) {
  const OwnCsr own = csr(weight);
  const bool shared = shares_offsets(own.csr, weight.taps);
  const int64_t group = shared ? kGroup : 1;
  std::vector<int32_t> offsets(static_cast<size_t>(own.csr.columns));
  tap_offsets(weight.taps, offsets.data());
  auto* row_ptr = take<int32_t>(own.csr.rows / group + 1);
  auto* offset = take<int32_t>(own.nonzeros / group);
  auto* value = take<float>(own.nonzeros);
  fill_planes(own.csr, weight.taps, offsets.data(), shared, row_ptr, offset, value);
  return {own.csr.rows, weight.activation, group, 0, row_ptr, nullptr, offset, nullptr, value,
          bias(weight)};
}

}  // namespace billhook
