"""The C ABI of the inference kernels: the structures of ``csrc/`` and typed calls of them.

Arrays that a structure points to must outlive it; each packed weight keeps its own.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray

from billhook import native
from billhook.inference import isa as instruction_sets

ACTIVATIONS = ("none", "relu", "relu6")
#: Of a convolution; those it adds have the numbers that they have as ``FUNCTIONS``.
CONV_ACTIVATIONS = (*ACTIVATIONS, "hardswish", "hardsigmoid", "sigmoid", "silu")
#: Of one value and of two, in the order of ``f32_pointwise.h``, which says what each computes.
FUNCTIONS = (
    *("affine", "clamp", "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "silu", "tanh"),
    *("gelu", "gelu_tanh", "exp", "elu", "abs", "sqrt", "reciprocal", "mish", "log", "equal"),
    "choose",
)
BINARY_FUNCTIONS = (
    *("add", "sub", "mul", "div", "maximum", "minimum", "prelu", "masked_fill"),
    *("lt", "le", "eq", "rsub", "rdiv"),
)
NUMBERS = ("I64", "I32", "BOOL")  # what inputs other than fp32 may be
MAX_VECTORS = 16
MAX_TAPS = 64  # of a depthwise filter
MAX_DIMS = 8  # of a rearrangement
LANES = 8  # rows of a group, pixels of a plan's vector, and what reads are rounded up to

Array = NDArray[Any]
Struct = TypeVar("Struct", bound=ctypes.Structure)


class View(ctypes.Structure):
    """Channel-major planes in a buffer; see ``steps.h``."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("buffer", "offset", "plane", "pitch"))


class SparseRowsStruct(ctypes.Structure):
    """CSR whose operand is a panel or planes; see ``f32_spmm.h``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "activation", "group", "first_column")),
        *(
            (name, ctypes.c_void_p)
            for name in ("row_ptr", "row", "offset", "column", "value", "bias")
        ),
    )


class BlocksStruct(ctypes.Structure):
    """A matrix in blocks of columns; see ``f32_spmm.h``."""

    _fields_ = (("first", ctypes.c_void_p), ("count", ctypes.c_int64))


class LaneRowsStruct(ctypes.Structure):
    """Groups of eight rows, one lane each; see ``f32_spmv.h``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "columns", "groups", "activation", "shared_columns")
        ),
        *((name, ctypes.c_void_p) for name in ("group_ptr", "column", "value", "row", "bias")),
    )


class Step(ctypes.Structure):
    """One operation of a feed-forward program; see ``steps.h``.

    ``note`` is what files say in place of the pointers.
    """

    note: Mapping[str, Any] = {}
    _fields_ = (
        ("op", ctypes.c_int64),
        ("x", View),
        ("y", View),
        ("addend", View),
        ("extra", View),
        ("mask", View),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("channels", "in_height", "in_width", "height", "width"),
                *("kernel_height", "kernel_width", "stride_height", "stride_width"),
                *("pad_top", "pad_left", "count_padding", "activation", "function", "dims"),
            )
        ),
        *((name, ctypes.c_int64 * MAX_DIMS) for name in ("size", "from_", "to")),
        ("parameters", ctypes.c_double * 2),
        *((name, ctypes.c_int64) for name in ("pixels", "vectors", "packed")),
        ("keep", ctypes.c_void_p),
        ("panel", ctypes.c_void_p),
        ("rows", BlocksStruct),
        ("depthwise", SparseRowsStruct),
        ("lanes", LaneRowsStruct),
    )


#: By the names that csrc/ has for them; compared with the library when it is first used.
STRUCTURES = {
    "View": View,
    "SparseRows": SparseRowsStruct,
    "Blocks": BlocksStruct,
    "LaneRows": LaneRowsStruct,
    "Step": Step,
}

# Operations of steps.
COPY, SPMM, MAX_POOL, AVERAGE_POOL, MEAN, ADD, LINEAR, DEPTHWISE = range(8)
REARRANGE, FILL, POINTWISE, BINARY, NORMALISE, SOFTMAX, REDUCE, MATMUL = range(8, 16)
ATTENTION, EMBED, CAST, RESIZE, LSTM, GRU = range(16, 22)


def available() -> bool:
    """Whether this installation has native kernels; without them every layer runs dense."""
    return native.library() is not None


def isa() -> int:
    """The best instruction set of this processor for fp32, a row of the library's table."""
    return instruction_sets.index_of(instruction_sets.best("fp32"), "fp32")


def runnable(wanted: int) -> int:
    """The instruction set itself, or this machine's best one if it does not run that."""
    name = instruction_sets.set_for(instruction_sets.name_of(wanted), "fp32")
    return instruction_sets.index_of(name, "fp32")


_native = native.Functions(
    {
        "billhook_run": "PqPPqqqq",
        "billhook_linear": "PPqqPqqqqq",
        "billhook_spmv": "PPqPqqqq",
        "billhook_lstm_vector": "PPPPPqqqqq",
        "billhook_gru_vector": "PPPPqqqqq",
        "billhook_lstm_batch": "PPPPqPqqPPqqqq",
    },
    STRUCTURES,
)


def pointer(array: Array | None) -> int | None:
    """The address of an array's data, None for None."""
    return None if array is None else int(array.ctypes.data)


def struct_array(structs: Sequence[Struct]) -> "ctypes.Array[Struct]":
    """The structures one after another, as a kernel reads them."""
    return (type(structs[0]) * len(structs))(*structs)


# The buffers of a network: these, its other inputs, then its outputs.
WORKSPACE, CONSTANTS, FIRST_INPUT = range(3)


def run_steps(
    steps: Any,
    buffers: Sequence[int],
    strides: Sequence[int],
    *,
    samples: int,
    threads: int,
    isa: int,
) -> None:
    """``billhook_run``: the steps (a ctypes array) once for every sample; strides in bytes."""
    _native["billhook_run"](*steps_arguments(steps, buffers, strides), samples, threads, isa)


def steps_arguments(
    steps: Any, buffers: Sequence[int], strides: Sequence[int]
) -> tuple[object, ...]:
    """Steps and the buffers that they work on, as C takes them."""
    count = len(buffers)
    arrays = (ctypes.c_void_p * count)(*buffers), (ctypes.c_int64 * count)(*strides)
    return ctypes.byref(steps), len(steps), *arrays, count


def linear(
    blocks: BlocksStruct,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    width: int,
    threads: int,
    isa: int,
) -> None:
    """``billhook_linear``: y (samples, rows) from x (samples, columns), panels ``width`` wide."""
    _native["billhook_linear"](
        ctypes.addressof(blocks),
        x.data_ptr(),
        x.stride(0),
        x.shape[1],
        y.data_ptr(),
        y.stride(0),
        x.shape[0],
        width,
        threads,
        isa,
    )


def spmv(rows: LaneRowsStruct, x: torch.Tensor, y: torch.Tensor, *, threads: int, isa: int) -> None:
    """``billhook_spmv``: y (samples, rows) from x (samples, columns), one sample at a time."""
    _native["billhook_spmv"](
        ctypes.addressof(rows),
        x.data_ptr(),
        x.stride(0),
        y.data_ptr(),
        y.stride(0),
        x.shape[0],
        threads,
        isa,
    )


def recurrent_vector(
    cell: Literal["lstm", "gru"],
    rows: LaneRowsStruct,
    inputs: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    outputs: torch.Tensor,
    *,
    reverse: bool,
    threads: int,
    isa: int,
) -> None:
    """``billhook_lstm_vector``: inputs (T, 4 units), state h and c (units,), outputs (T, units).

    ``billhook_gru_vector``: inputs (T, 3 units) and a state of h alone.
    """
    given = recurrent_arguments(rows, inputs, state, outputs)
    _native[f"billhook_{cell}_vector"](*given, int(reverse), threads, isa)


def recurrent_arguments(
    recurrent: ctypes.Structure,
    inputs: torch.Tensor,
    state: tuple[torch.Tensor, ...],
    outputs: torch.Tensor,
) -> tuple[int, ...]:
    """A recurrent matrix and the tensors of one sample's time steps, as C takes them."""
    tensors = (inputs, *state, outputs)
    pointers = [tensor.data_ptr() for tensor in tensors]
    return ctypes.addressof(recurrent), *pointers, outputs.stride(0), len(inputs)


def lstm_batch(
    recurrent: BlocksStruct,
    inputs: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor],
    outputs: torch.Tensor,
    *,
    first: Array,
    counts: Array,
    reverse: bool,
    threads: int,
    isa: int,
) -> None:
    """``billhook_lstm_batch``: inputs and outputs are rows, the state's h and c (units, width)."""
    _native["billhook_lstm_batch"](
        ctypes.addressof(recurrent),
        inputs.data_ptr(),
        state[0].data_ptr(),
        state[1].data_ptr(),
        state[0].shape[0],
        outputs.data_ptr(),
        outputs.stride(0),
        state[0].shape[1],
        pointer(first),
        pointer(counts),
        len(counts),
        int(reverse),
        threads,
        isa,
    )
