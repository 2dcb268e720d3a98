"""A pruned matrix in 8 bits and its product with vectors and batches of fp32."""

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError
from billhook.inference import isa, kernels
from billhook.inference.int8 import bindings
from billhook.inference.int8.choices import group_of, lines_of
from billhook.inference.int8.packing import (
    Packed,
    Rows,
    pack_blocks,
    pack_vector,
    pack_windows,
    rows_for,
)
from billhook.inference.int8.quantise import quantise_weight
from billhook.inference.plan import Choice

__all__ = ["STATE_STEP", "Int8Matrix", "Int8Weight", "quantised"]

ZERO = 128  # the byte of zero: inputs are signed
STATE_STEP = 1 / 127  # of recurrent states, which lie between -1 and 1


@dataclass(frozen=True)
class Int8Weight:
    """A matrix (rows, columns) as s8 and each row's step."""

    value: NDArray[np.int8]
    step: NDArray[np.float32]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """As files have it: ``name.value`` and ``name.step``."""
        return {
            f"{name}.value": torch.from_numpy(self.value),
            f"{name}.step": torch.from_numpy(self.step),
        }

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.value.shape

    @property
    def nonzeros(self) -> int:
        """How many of its bytes are not zero."""
        return int(np.count_nonzero(self.value))

    def dense(self) -> torch.Tensor:
        """The values that the bytes stand for, fp32."""
        return torch.from_numpy(self.value * self.step[:, None])


def quantised(weight: torch.Tensor) -> Int8Weight:
    """A matrix of fp32 with a step for each row: its largest magnitude by 127.

    >>> quantised(torch.tensor([[2.54, 0.0, -1.0]])).value
    array([[127,   0, -50]], dtype=int8)
    """
    matrix = weight.detach().double().numpy()
    if not np.isfinite(matrix).all():
        raise ConfigurationError("a weight is NaN or infinite: it has no form in 8 bits")
    value, steps = quantise_weight(matrix, np.zeros(len(matrix)), 1.0)
    return Int8Weight(value, steps.astype(np.float32))


class Int8Matrix:
    """(samples, columns) of fp32 to (samples, rows): y = W x + bias, each sample in bytes.

    A sample's step is its largest magnitude by 127, or a fixed one. Packings are made when first
    needed and kept: one for single vectors, one for batches.

    Args:
        weight: The matrix.
        bias: fp32, one for each row, or None.
        choice: The kernel; it changes no result.
        instruction_set: One of ``isa.supported("int8")``; it changes no result either.
        step: The fixed step of the inputs, 0 for each sample's own.
    """

    def __init__(
        self,
        weight: Int8Weight,
        bias: NDArray[np.float32] | None,
        choice: Choice,
        instruction_set: str,
        step: float = 0.0,
    ) -> None:
        self.weight, self.bias, self.choice, self.step = weight, bias, choice, step
        self.instruction_set, self.isa = instruction_set, isa.index_of(instruction_set, "int8")
        sums = weight.value.astype(np.int64).sum(axis=1)
        most = np.abs(weight.value.astype(np.int64)).sum(axis=1).max(initial=0) * 255
        if most + ZERO * np.abs(sums).max(initial=0) >= 2**31:
            raise ConfigurationError(
                f"rows of {weight.shape[1]} columns have sums beyond 32 bits: "
                "they have no form in 8 bits"
            )
        own = Rows(weight.value, (-ZERO * sums).astype(np.int32), weight.step, bias)
        self.rows = rows_for(instruction_set, own)
        self.struct = bindings.MatrixStruct(
            offset=kernels.pointer(bias), rows=weight.shape[0], columns=weight.shape[1]
        )
        self._packed: dict[str, Packed] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are packed anew: structures hold addresses."""
        given = (self.weight, self.bias, self.choice, self.instruction_set, self.step)
        return type(self), given

    @property
    def nbytes(self) -> int:
        """Bytes of everything packed so far."""
        return sum(packed.nbytes for packed in self._packed.values())

    def for_vectors(self) -> bindings.MatrixStruct:
        """The matrix with a packing for single vectors."""
        return self._with("vector")

    def for_batches(self) -> bindings.MatrixStruct:
        """The matrix with a packing for batches."""
        return self._with("batch")

    def _with(self, use: str) -> bindings.MatrixStruct:
        if use not in self._packed:
            with self._lock:
                if use not in self._packed:
                    windows = (
                        self.choice.kernel == "windows" and self.instruction_set == "avx512vbmi"
                    )
                    packed = self._pack(use, windows)
                    name = f"{use}_windows" if windows else use
                    setattr(self.struct, name, ctypes.addressof(packed.struct))
                    self._packed[use] = packed
        return self.struct

    def _pack(self, use: str, windows: bool) -> Packed:
        if windows:
            return pack_windows(self.rows, stream=use == "vector")
        dense, words = self.choice.kernel == "all_blocks", self.instruction_set == "avx2"
        if use == "vector":
            group = 16 if dense else group_of(self.choice)
            return pack_vector(self.rows, group, words=words)
        return pack_blocks(self.rows, group_of(self.choice), dense=dense, words=words)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, columns) to (samples, rows); both fp32 on the CPU, x's rows contiguous.

        Raises:
            ConfigurationError: x holds NaN or infinity.
        """
        y = x.new_empty(len(x), self.weight.shape[0])
        if len(x) == 0:
            return y
        finite = bindings.linear(
            self.for_vectors() if len(x) == 1 else self.for_batches(),
            x,
            y,
            step=self.step,
            lines=lines_of(self.choice),
            threads=torch.get_num_threads(),
            isa=self.isa,
        )
        if not finite:
            raise ConfigurationError(
                "the input of a layer in 8 bits is NaN or infinite: it cannot be represented"
            )
        return y

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """(..., columns) to (..., rows), whatever the strides of x."""
        rows, columns = self.weight.shape
        flat = x if x.dim() == 2 else x.reshape(-1, columns)
        if flat.is_neg() or flat.stride(1) != 1:
            flat = flat.resolve_neg().contiguous()
        y = self.multiply(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], rows)
