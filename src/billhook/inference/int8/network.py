"""A network in 8 bits, run with one native call a batch."""

import threading
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from billhook.errors import ConfigurationError
from billhook.inference.int8 import bindings, isa
from billhook.inference.int8.lowering import Lowered, lower, workspace_of
from billhook.inference.int8.ops import Program
from billhook.inference.int8.plan import Choice

__all__ = ["Int8Network"]


class Int8Network:
    """A CNN for inputs (N, *input_shape), any N; results (N, *output_shape), fp32.

    Several threads may call it at once; each call takes a workspace of its own from a pool.

    Args:
        program: What it computes.
        choices: The kernel of each layer, by name; they change no result.
        instruction_set: One of ``isa.supported()``; it changes no result either.
    """

    def __init__(
        self, program: Program, choices: Mapping[str, Choice], instruction_set: str
    ) -> None:
        self.program, self.choices, self.instruction_set = program, dict(choices), instruction_set
        self._isa = isa.index_of(instruction_set)
        self.lowered: Lowered = lower(program, choices, instruction_set)
        self.steps = (bindings.Step * len(self.lowered.steps))(*self.lowered.steps)
        self._pool: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(packed.nbytes for packed in self.lowered.packed)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
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
