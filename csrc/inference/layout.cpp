// The structures that Python mirrors, as text: a library whose structures differ from those of
// kernels.py is refused when it is loaded, before it can read memory at wrong offsets.
#include <cstddef>
#include <iterator>

#include "abi.h"
#include "f32_pack.h"
#include "steps.h"

namespace {

struct Field {
  const char* name;
  int64_t offset;
};

// Of a structure its name and size (as a field "="), then its fields in order.
#define BILLHOOK_STRUCT(type) {#type "=", sizeof(billhook::type)}
#define BILLHOOK_FIELD(type, field) {#field, offsetof(billhook::type, field)}

constexpr Field kLayout[] = {
    BILLHOOK_STRUCT(View),
    BILLHOOK_FIELD(View, buffer),
    BILLHOOK_FIELD(View, offset),
    BILLHOOK_FIELD(View, plane),
    BILLHOOK_FIELD(View, pitch),
    BILLHOOK_STRUCT(SparseRows),
    BILLHOOK_FIELD(SparseRows, rows),
    BILLHOOK_FIELD(SparseRows, activation),
    BILLHOOK_FIELD(SparseRows, group),
    BILLHOOK_FIELD(SparseRows, first_column),
    BILLHOOK_FIELD(SparseRows, row_ptr),
    BILLHOOK_FIELD(SparseRows, row),
    BILLHOOK_FIELD(SparseRows, offset),
    BILLHOOK_FIELD(SparseRows, column),
    BILLHOOK_FIELD(SparseRows, value),
    BILLHOOK_FIELD(SparseRows, bias),
    BILLHOOK_STRUCT(Blocks),
    BILLHOOK_FIELD(Blocks, first),
    BILLHOOK_FIELD(Blocks, count),
    BILLHOOK_STRUCT(LaneRows),
    BILLHOOK_FIELD(LaneRows, rows),
    BILLHOOK_FIELD(LaneRows, columns),
    BILLHOOK_FIELD(LaneRows, groups),
    BILLHOOK_FIELD(LaneRows, activation),
    BILLHOOK_FIELD(LaneRows, shared_columns),
    BILLHOOK_FIELD(LaneRows, group_ptr),
    BILLHOOK_FIELD(LaneRows, column),
    BILLHOOK_FIELD(LaneRows, value),
    BILLHOOK_FIELD(LaneRows, row),
    BILLHOOK_FIELD(LaneRows, bias),
    BILLHOOK_STRUCT(Step),
    BILLHOOK_FIELD(Step, op),
    BILLHOOK_FIELD(Step, x),
    BILLHOOK_FIELD(Step, y),
    BILLHOOK_FIELD(Step, addend),
    BILLHOOK_FIELD(Step, channels),
    BILLHOOK_FIELD(Step, in_height),
    BILLHOOK_FIELD(Step, in_width),
    BILLHOOK_FIELD(Step, height),
    BILLHOOK_FIELD(Step, width),
    BILLHOOK_FIELD(Step, kernel_height),
    BILLHOOK_FIELD(Step, kernel_width),
    BILLHOOK_FIELD(Step, stride_height),
    BILLHOOK_FIELD(Step, stride_width),
    BILLHOOK_FIELD(Step, pad_top),
    BILLHOOK_FIELD(Step, pad_left),
    BILLHOOK_FIELD(Step, count_padding),
    BILLHOOK_FIELD(Step, activation),
    BILLHOOK_FIELD(Step, pixels),
    BILLHOOK_FIELD(Step, vectors),
    BILLHOOK_FIELD(Step, packed),
    BILLHOOK_FIELD(Step, keep),
    BILLHOOK_FIELD(Step, panel),
    BILLHOOK_FIELD(Step, rows),
    BILLHOOK_FIELD(Step, depthwise),
    BILLHOOK_FIELD(Step, lanes),
    BILLHOOK_STRUCT(Csr),
    BILLHOOK_FIELD(Csr, rows),
    BILLHOOK_FIELD(Csr, columns),
    BILLHOOK_FIELD(Csr, row_ptr),
    BILLHOOK_FIELD(Csr, narrow),
    BILLHOOK_FIELD(Csr, wide),
    BILLHOOK_FIELD(Csr, value),
    BILLHOOK_STRUCT(Taps),
    BILLHOOK_FIELD(Taps, inputs),
    BILLHOOK_FIELD(Taps, kernel_height),
    BILLHOOK_FIELD(Taps, kernel_width),
    BILLHOOK_FIELD(Taps, stride_height),
    BILLHOOK_FIELD(Taps, stride_width),
    BILLHOOK_FIELD(Taps, dilation_height),
    BILLHOOK_FIELD(Taps, dilation_width),
    BILLHOOK_FIELD(Taps, pad_top),
    BILLHOOK_FIELD(Taps, pad_left),
    BILLHOOK_FIELD(Taps, groups),
    BILLHOOK_FIELD(Taps, plane),
    BILLHOOK_FIELD(Taps, pitch),
};

}  // namespace

// The name of entry `index` of the layout, its offset (or a structure's size) in *offset; null after
// the last one.
BILLHOOK_API const char* billhook_layout(int64_t index, int64_t* offset) {
  if (index < 0 || index >= static_cast<int64_t>(std::size(kLayout))) return nullptr;
  *offset = kLayout[index].offset;
  return kLayout[index].name;
}
