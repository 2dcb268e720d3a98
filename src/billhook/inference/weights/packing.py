"""The C ABI of ``csrc/inference/f32_pack.h``: from nonzeros to what the kernels read, and back.

A first call says how much memory a packing takes, a second one fills it.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from billhook import native
from billhook.inference.kernels import LANES, BlocksStruct, LaneRowsStruct, pointer

__all__ = [
    "CsrStruct",
    "TapsStruct",
    "block_columns",
    "fill_block",
    "fill_planes",
    "lanes",
    "nonzeros_between",
    "rows_of_blocks",
    "rows_of_lanes",
    "rows_of_mask",
    "shares_columns",
    "shares_offsets",
    "tap_offsets",
]

Ints = NDArray[np.int32]
Shorts = NDArray[np.uint16]
Floats = NDArray[np.float32]


class CsrStruct(ctypes.Structure):
    """A sparse matrix; see ``f32_pack.h``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("row_ptr", "narrow", "wide", "value")),
    )


class TapsStruct(ctypes.Structure):
    """How a convolution reads padded planes; see ``f32_pack.h``."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("inputs", "kernel_height", "kernel_width", "stride_height", "stride_width"),
            *("dilation_height", "dilation_width", "pad_top", "pad_left", "groups"),
            *("plane", "pitch"),
        )
    )


#: By the names that csrc/ has for them; compared with the library when it is first used.
STRUCTURES = {"Csr": CsrStruct, "Taps": TapsStruct}
_native = native.Functions(
    {
        "billhook_rows_of_mask": "PqqqPPP",
        "billhook_shares_columns": "P",
        "billhook_lane_steps": "PqPP",
        "billhook_fill_lanes": "PqPPPP",
        "billhook_block_columns": "qqqqq",
        "billhook_nonzeros_between": "Pqq",
        "billhook_fill_block": "PqqqPPPP",
        "billhook_rows_of_lanes": "PPPP",
        "billhook_rows_of_blocks": "PqPPPP",
        "billhook_tap_offsets": "PP",
        "billhook_shares_offsets": "PP",
        "billhook_fill_planes": "PPPqPPP",
    },
    STRUCTURES,
)


def _ref(struct: ctypes.Structure) -> int:
    return ctypes.addressof(struct)


def rows_of_mask(
    mask: NDArray[np.uint8], rows: int, columns: int, nonzeros: int
) -> tuple[Ints, Shorts | Ints] | None:
    """row_ptr and columns of a mask's set bits; None unless there are ``nonzeros`` of them, all
    on elements. ``mask`` has ``ceil(rows * columns / 8)`` bytes."""
    row_ptr, column = _room(rows, columns, nonzeros)
    sound = _native["billhook_rows_of_mask"](
        *(pointer(mask), rows, columns, nonzeros, pointer(row_ptr), *_by_width(column))
    )
    return (row_ptr, column) if sound else None


def _room(rows: int, columns: int, nonzeros: int) -> tuple[Ints, Shorts | Ints]:
    """A row_ptr and columns that are to be filled; these in two bytes where they fit."""
    row_ptr = np.empty(rows + 1, np.int32)
    if columns < 2**16:
        return row_ptr, np.empty(nonzeros, np.uint16)
    return row_ptr, np.empty(nonzeros, np.int32)


def _by_width(column: Shorts | Ints) -> tuple[int | None, int | None]:
    """Columns as C takes them: an address of two bytes each, or one of four."""
    return (pointer(column), None) if column.dtype == np.uint16 else (None, pointer(column))


def rows_of_lanes(lanes: LaneRowsStruct, nonzeros: int) -> tuple[Ints, Shorts | Ints, Floats]:
    """row_ptr, columns and values of the matrix that lanes were packed from."""
    row_ptr, column = _room(lanes.rows, lanes.columns, nonzeros)
    value = np.empty(nonzeros, np.float32)
    _native["billhook_rows_of_lanes"](
        *(_ref(lanes), pointer(row_ptr), pointer(column), pointer(value))
    )
    return row_ptr, column, value


def rows_of_blocks(
    blocks: BlocksStruct, shape: tuple[int, int], nonzeros: int
) -> tuple[Ints, Shorts | Ints, Floats]:
    """The same of the matrix of this shape that blocks of columns were packed from."""
    row_ptr, column = _room(*shape, nonzeros)
    value = np.empty(nonzeros, np.float32)
    _native["billhook_rows_of_blocks"](
        *(_ref(blocks), shape[0], pointer(row_ptr), *_by_width(column), pointer(value))
    )
    return row_ptr, column, value


def shares_columns(csr: CsrStruct) -> bool:
    """Whether each eight rows from a multiple of eight have the same columns."""
    return bool(_native["billhook_shares_columns"](_ref(csr)))


def lanes(csr: CsrStruct, shared: bool) -> tuple[Ints, Shorts, Floats, Ints]:
    """group_ptr, columns, values and rows of groups of eight rows."""
    groups = -(-csr.rows // LANES)
    group_ptr, row = np.empty(groups + 1, np.int32), np.empty(groups * LANES, np.int32)
    steps = _native["billhook_lane_steps"](_ref(csr), shared, pointer(group_ptr), pointer(row))
    column = np.empty(steps if shared else (steps, LANES), np.uint16)
    value = np.empty((steps, LANES), np.float32)
    _native["billhook_fill_lanes"](
        *(_ref(csr), shared, pointer(group_ptr), pointer(row), pointer(column), pointer(value))
    )
    return group_ptr, column, value, row


def block_columns(rows: int, columns: int, nonzeros: int, width: int, isa: int) -> int:
    """The columns of each block of a panel's matrix but the last."""
    return int(_native["billhook_block_columns"](rows, columns, nonzeros, width, isa))


def nonzeros_between(csr: CsrStruct, first: int, last: int) -> int:
    """How many nonzeros are in columns [first, last)."""
    return int(_native["billhook_nonzeros_between"](_ref(csr), first, last))


def fill_block(
    csr: CsrStruct, first: int, last: int, shared: bool
) -> tuple[Ints, Shorts, Floats, Ints | None]:
    """row_ptr, columns from ``first`` on, values and the order of rows of columns [first, last)."""
    count, group = nonzeros_between(csr, first, last), LANES if shared else 1
    row_ptr = np.empty(csr.rows // group + 1, np.int32)
    row = None if shared else np.empty(csr.rows, np.int32)
    column, value = np.empty(count // group, np.uint16), np.empty(count, np.float32)
    _native["billhook_fill_block"](
        *(
            _ref(csr),
            first,
            last,
            shared,
            pointer(row_ptr),
            pointer(row),
            pointer(column),
            pointer(value),
        )
    )
    return row_ptr, column, value, row


def tap_offsets(taps: TapsStruct) -> Ints:
    """The offset from an output pixel to the operand of each column of the first group's rows."""
    offset = np.empty(taps.inputs * taps.kernel_height * taps.kernel_width, np.int32)
    _native["billhook_tap_offsets"](_ref(taps), pointer(offset))
    return offset


def shares_offsets(csr: CsrStruct, taps: TapsStruct) -> bool:
    """Whether each eight rows from a multiple of eight read the same places of the planes."""
    return bool(_native["billhook_shares_offsets"](_ref(csr), _ref(taps)))


def fill_planes(
    csr: CsrStruct, nonzeros: int, taps: TapsStruct, shared: bool
) -> tuple[Ints, Ints, Floats]:
    """row_ptr, offsets into planes, and values, in groups of eight rows if ``shared``."""
    group = LANES if shared else 1
    row_ptr = np.empty(csr.rows // group + 1, np.int32)
    offset, value = np.empty(nonzeros // group, np.int32), np.empty(nonzeros, np.float32)
    columns = tap_offsets(taps)  # which must live through the call
    _native["billhook_fill_planes"](
        *(_ref(csr), _ref(taps), pointer(columns), shared),
        *(pointer(row_ptr), pointer(offset), pointer(value)),
    )
    return row_ptr, offset, value
