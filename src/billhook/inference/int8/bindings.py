"""The C ABI of the kernels in 8 bits: the structures of ``csrc/inference/u8*`` and calls of them.

Arrays that a structure points to must outlive it; each packed weight keeps its own.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from billhook import native
from billhook.inference.kernels import Array, recurrent_arguments, steps_arguments

__all__ = [
    "OPS",
    "BlockRowsStruct",
    "DepthwiseStruct",
    "MatrixStruct",
    "Step",
    "VectorRowsStruct",
    "View",
    "Window",
    "WindowRowsStruct",
    "linear",
    "lstm",
    "run",
]

_I, _P = ctypes.c_int64, ctypes.c_void_p


def _fields(integers: str, pointers: str = "") -> tuple[tuple[str, Any], ...]:
    return (
        *((name, _I) for name in integers.split()),
        *((name, _P) for name in pointers.split()),
    )


class BlockRowsStruct(ctypes.Structure):
    """Rows of blocks, times maps; see ``u8s8_spmm.h``."""

    _fields_ = _fields("rows group groups", "ptr column value bias scale")


class VectorRowsStruct(ctypes.Structure):
    """Packs of sixteen rows, times a vector; see ``u8s8_spmv.h``."""

    _fields_ = _fields("rows columns group packs", "ptr column value row bias scale offset")


class WindowRowsStruct(ctypes.Structure):
    """Unstructured rows for ``vpermb``; see ``u8s8_spmv.h``."""

    _fields_ = _fields(
        "rows columns packs windows", "ptr mask stream begin index value bias scale offset"
    )


class DepthwiseStruct(ctypes.Structure):
    """Filters of single channels; see ``u8s8_depthwise.h``."""

    _fields_ = _fields("", "value bias scale")


class MatrixStruct(ctypes.Structure):
    """The packings of one matrix; see ``u8_linear.h``."""

    _fields_ = (
        *_fields("", "vector vector_windows batch batch_windows offset"),
        *_fields("rows columns"),
    )


class View(ctypes.Structure):
    """Part of a buffer; see ``u8_steps.h``."""

    _fields_ = _fields("buffer offset plane")


class Window(ctypes.Structure):
    """Windows over a map; see ``u8_map.h``."""

    _fields_ = _fields(
        "in_height in_width height width kernel_height kernel_width stride_height stride_width "
        "dilation_height dilation_width pad_top pad_left zero"
    )


class Step(ctypes.Structure):
    """One operation of a program; see ``u8_steps.h``. ``note`` is what files say in place of the
    pointers."""

    note: Mapping[str, Any] = {}

    _fields_ = (
        ("op", _I),
        *((name, View) for name in ("x", "y", "addend")),
        *_fields("channels first pixels"),
        ("window", Window),
        *_fields("gather lines count_padding relu by_sample selected by_channel"),
        *_fields("zero addend_zero"),
        *((name, ctypes.c_double) for name in ("scale", "addend_scale", "shift")),
        *_fields("", "rows windows depthwise matrix table index"),
    )


OPS = (
    *("quantise", "dequantise", "conv", "depthwise", "max_pool", "average_pool", "mean", "add"),
    *("copy", "flatten", "linear", "quantise_vector", "table", "multiply", "select"),
)
"""The names of steps in files; a step's number is its place here."""
(
    QUANTISE,
    DEQUANTISE,
    CONV,
    DEPTHWISE,
    MAX_POOL,
    AVERAGE_POOL,
    MEAN,
    ADD,
    COPY,
    FLATTEN,
    LINEAR,
    QUANTISE_VECTOR,
    TABLE,
    MULTIPLY,
    SELECT,
) = range(len(OPS))

#: By the names that csrc/ has for them; compared with the library when it is first used.
STRUCTURES = {
    "BlockRows": BlockRowsStruct,
    "VectorRows": VectorRowsStruct,
    "WindowRows": WindowRowsStruct,
    "DepthwiseQuads": DepthwiseStruct,
    "U8Matrix": MatrixStruct,
    "U8View": View,
    "Window2d": Window,
    "U8Step": Step,
}
_native = native.Functions(
    {
        "billhook_u8_run": "PqPPqqqqq",
        "billhook_u8_linear": "PPqPqqfqqq",
        "billhook_u8_lstm": "PPPPPqqqqq",
    },
    STRUCTURES,
)


def run(
    steps: Any,
    buffers: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    samples: int,
    threads: int,
    isa: int,
    pixels: int = 0,
) -> bool:
    """``billhook_u8_run``: whether every sample was finite."""
    given = steps_arguments(steps, buffers, strides)
    return bool(_native["billhook_u8_run"](*given, samples, pixels, threads, isa))


def linear(
    matrix: MatrixStruct,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    step: float,
    lines: int,
    threads: int,
    isa: int,
) -> bool:
    """``billhook_u8_linear``: y (samples, rows) from x (samples, columns); whether x was finite."""
    done = _native["billhook_u8_linear"](
        ctypes.addressof(matrix),
        x.data_ptr(),
        x.stride(0),
        y.data_ptr(),
        y.stride(0),
        x.shape[0],
        step,
        lines,
        threads,
        isa,
    )
    return bool(done)


def lstm(
    recurrent: MatrixStruct,
    gates: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor],
    outputs: torch.Tensor,
    *,
    reverse: bool,
    threads: int,
    isa: int,
) -> None:
    """``billhook_u8_lstm``: gates (T, 4 units), h and c (units,), outputs (T, units)."""
    given = recurrent_arguments(recurrent, gates, state, outputs)
    _native["billhook_u8_lstm"](*given, int(reverse), threads, isa)


def contiguous(array: Array, dtype: Any) -> Array:
    """The array as a kernel reads it."""
    return np.ascontiguousarray(array, dtype=dtype)
