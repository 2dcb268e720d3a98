// The mask of the coding "entropy"; format/SPEC.md has its model.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace billhook {

// The mask of a tensor from the index of its entry. The caller has checked that the index is long
// enough for so many elements.
std::vector<uint8_t> decode_mask(const uint8_t* index, size_t bytes,
                                 const std::vector<int64_t>& shape, int64_t elements);

}  // namespace billhook
