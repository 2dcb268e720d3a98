"""A network in 8 bits, run with one native call per batch."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference import isa
from billhook.inference.inputs import check_input
from billhook.inference.int8 import bindings
from billhook.inference.int8.lowering import Lowered, lower, workspace_of
from billhook.inference.int8.ops import Program
from billhook.inference.plan import Choice

__all__ = ["Int8Network"]


class Int8Network(nn.Module):
    """A CNN for inputs (N, *input_shape), any N; results (N, *output_shape), fp32.

    Several threads may call it at once; each call takes a workspace of its own from a pool.

    Args:
        program: What it computes.
        choices: The kernel of each layer, by name; they change no result.
        instruction_set: One of ``isa.supported("int8")``; it changes no result either.
    """

    def __init__(
        self, program: Program, choices: Mapping[str, Choice], instruction_set: str
    ) -> None:
        super().__init__()
        self.program, self.choices, self.instruction_set = program, dict(choices), instruction_set
        self._isa = isa.index_of(instruction_set, "int8")
        self.lowered: Lowered = lower(program, choices, instruction_set)
        self.steps = (bindings.Step * len(self.lowered.steps))(*self.lowered.steps)
        self._pool: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self.eval()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample."""
        return self.program.input_shape

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(packed.nbytes for packed in self.lowered.packed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are packed anew: steps hold addresses."""
        return type(self), (self.program, self.choices, self.instruction_set)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """fp32 (N, C, H, W) to fp32."""
        check_input("this program", x)
        shape = self.program.input_shape
        if tuple(x.shape[1:]) != shape:
            raise ConfigurationError(
                f"the input's shape is {tuple(x.shape)}: this program was compiled for "
                f"(N, {', '.join(map(str, shape))}); compile it again for another size"
            )
        x = x.detach().resolve_neg().contiguous()
        y = x.new_empty(x.shape[0], *self.program.output_shape)
        with self._lock:
            space = self._pool.pop() if self._pool else None
        if space is None:
            space = workspace_of(self.lowered.size)
        try:
            finite = bindings.run(
                self.steps,
                (space.ctypes.data, x.data_ptr(), y.data_ptr()),
                (0, 4 * x[:1].numel(), 4 * y[:1].numel()),
                samples=len(x),
                threads=torch.get_num_threads(),
                isa=self._isa,
            )
        finally:
            with self._lock:
                self._pool.append(space)
        if not finite:
            raise ConfigurationError(
                "the input, or a value of fp32 within the network, is NaN or infinite: "
                "a program in 8 bits cannot represent it"
            )
        return y
