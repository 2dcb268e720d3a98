"""The C ABI of the kernels in 8 bits: the structures of ``csrc/inference/u8*`` and calls of them.

Arrays that a structure points to must outlive it; each packed weight keeps its own.
"""

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from billhook import native

__all__ = [
    "BlockRowsStruct",
    "DepthwiseStruct",
    "MatrixStruct",
    "Step",
    "VectorRowsStruct",
    "View",
    "Window",
    "WindowRowsStruct",
    "address",
    "linear",
    "lstm",
    "run",
]

Array = NDArray[Any]
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

    _fields_ = _fields("rows group packs", "ptr column value row bias scale offset")


class WindowRowsStruct(ctypes.Structure):
    """Unstructured rows for ``vpermb``; see ``u8s8_spmv.h``."""

    _fields_ = _fields(
        "rows columns packs windows", "ptr mask stream begin index value bias scale offset"
    )


class DepthwiseStruct(ctypes.Structure):
    """Filters of three by three taps; see ``u8s8_depthwise.h``."""

    _fields_ = _fields(
        "in_height in_width height width stride pad_top pad_left zero", "value bias scale"
    )


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
    """One operation of a program; see ``u8_steps.h``."""

    _fields_ = (
        ("op", _I),
        *((name, View) for name in ("x", "y", "addend")),
        *_fields("channels first pixels"),
        ("window", Window),
        *_fields("gather lines count_padding relu"),
        *((name, ctypes.c_double) for name in ("scale", "addend_scale", "shift")),
        *_fields("", "rows windows depthwise matrix"),
    )


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
) = range(12)

_MIRRORED = (
    *(BlockRowsStruct, VectorRowsStruct, WindowRowsStruct, DepthwiseStruct),
    *(MatrixStruct, View, Window, Step),
)
_ARGTYPES: dict[str, tuple[Any, ...]] = {
    "billhook_u8_run": (_P, _I, _P, _P, _I, _I, _I, _I),
    "billhook_u8_linear": (_P, _P, _I, _P, _I, _I, ctypes.c_float, _I, _I, _I),
    "billhook_u8_lstm": (_P, _P, _P, _P, _P, _I, _I, _I, _I, _I),
}


@functools.cache
def _kernel(name: str) -> Any:
    _check_layouts()
    kernel = native.function(name, _ARGTYPES[name])
    if kernel is None:
        raise RuntimeError("there is no native library; callers ask kernels.available() first")
    return kernel


@functools.cache
def _check_layouts() -> None:
    """A library whose structures differ from these would read wherever it likes."""
    sizes = native.function("billhook_u8_sizes", (_P,))
    if sizes is None:
        return
    theirs = (_I * 64)()
    count = sizes(theirs)
    own = [ctypes.sizeof(kind) for kind in _MIRRORED]
    if theirs[:count] != own:
        raise ImportError(
            f"the native library's structures have {theirs[:count]} bytes, this billhook's {own}: "
            "rebuild it with `make build`"
        )


def address(array: Array | None) -> int | None:
    """The address of an array's data, None for None."""
    return None if array is None else int(array.ctypes.data)


def run(
    steps: Any,
    buffers: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    samples: int,
    threads: int,
    isa: int,
) -> bool:
    """``billhook_u8_run``: whether every sample was finite."""
    count = len(buffers)
    done = _kernel("billhook_u8_run")(
        ctypes.byref(steps),
        len(steps),
        (_P * count)(*buffers),
        (_I * count)(*strides),
        count,
        samples,
        threads,
        isa,
    )
    return bool(done)


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
    done = _kernel("billhook_u8_linear")(
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
    _kernel("billhook_u8_lstm")(
        ctypes.addressof(recurrent),
        gates.data_ptr(),
        state[0].data_ptr(),
        state[1].data_ptr(),
        outputs.data_ptr(),
        outputs.stride(0),
        len(gates),
        int(reverse),
        threads,
        isa,
    )


def contiguous(array: Array, dtype: Any) -> Array:
    """The array as a kernel reads it."""
    return np.ascontiguousarray(array, dtype=dtype)
