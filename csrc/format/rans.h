// Decoding of the masks of the coding "entropy", for the runtime too.
#pragma once
#include "abi.h"

// Decodes rows * columns * inner bits into `mask`, ceil(numel / 8) zeroed bytes. `stream` holds the
// lanes' states, then the words. Returns the bytes used, -1 when the stream is too short, -2 when
// the states do not end where an encoder begins.
BILLHOOK_API int64_t billhook_rans_decode(const uint8_t* stream, int64_t bytes, int64_t lanes,
                                          const uint8_t* row_class, int64_t rows,
                                          const uint8_t* column_class, int64_t columns,
                                          int64_t inner, const uint16_t* table, uint8_t* mask);
