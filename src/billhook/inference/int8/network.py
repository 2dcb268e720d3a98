"""A network in 8 bits, run with one native call per batch."""

import math
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
from billhook.inference.int8.inputs import maps_of
from billhook.inference.int8.lowering import Lowered, lower, workspace_of
from billhook.inference.int8.ops import PIXELS, Program
from billhook.inference.int8.reference import saturated_share
from billhook.inference.plan import Choice

__all__ = ["Int8Network"]


class Int8Network(nn.Module):
    """A network for inputs (N, *sample_shape), any N; results (N, *output_shape), fp32.

    Where its samples are pixels, inputs are (..., C) and ``PIXELS`` of their rows run at once.

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
    def sample_shape(self) -> tuple[int, ...]:
        """One sample as callers give it."""
        return self.program.sample_shape

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(packed.nbytes for packed in self.lowered.packed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are packed anew: steps hold addresses."""
        return type(self), (self.program, self.choices, self.instruction_set)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """fp32 (N, C, H, W), (N, C, T) or (..., C), as the program takes it, to fp32."""
        check_input("this program", x)
        shape, by_sample = self.sample_shape, self.program.by_sample
        before = x.shape[:-1] if by_sample else x.shape[:1]
        if tuple(x.shape[len(before) :]) != shape or not before:
            raise ConfigurationError(
                f"the input's shape is {tuple(x.shape)}: this program was compiled for "
                f"({'...' if by_sample else 'N'}, {', '.join(map(str, shape))}); "
                "compile it again for another size"
            )
        x = x.detach().resolve_neg().contiguous()
        y = x.new_empty(*before, *self.program.output_shape)
        with self._lock:
            space = self._pool.pop() if self._pool else None
        if space is None:
            space = workspace_of(self.lowered.size)
        rows, at_once = before.numel(), PIXELS if by_sample else 1
        turns, rest = divmod(rows, at_once)
        done = turns * at_once
        try:
            finite = self._run(space, x, y, turns, at_once) and (
                rest == 0 or self._run(space, x, y, 1, at_once, first=done, pixels=rest)
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

    def saturated(self, x: torch.Tensor) -> dict[str, float]:
        """Of each operation's values, by its name, the share beyond its calibrated range."""
        maps = maps_of(x.detach(), self.program.takes).numpy()
        shares = [saturated_share(self.program, each) for each in maps]
        return {name: float(np.mean([s[name] for s in shares])) for name in shares[0]}

    def _run(
        self,
        space: NDArray[np.uint8],
        x: torch.Tensor,
        y: torch.Tensor,
        turns: int,
        at_once: int,
        *,
        first: int = 0,
        pixels: int = 0,
    ) -> bool:
        """Some turns of ``at_once`` samples from the first on, or one of ``pixels``: whether all
        that was read was finite."""
        sizes = [4 * math.prod(s) for s in (self.program.sample_shape, self.program.output_shape)]
        return bindings.run(
            self.steps,
            (
                space.ctypes.data,
                x.data_ptr() + first * sizes[0],
                y.data_ptr() + first * sizes[1],
            ),
            (0, at_once * sizes[0], at_once * sizes[1]),
            samples=turns,
            pixels=pixels,
            threads=torch.get_num_threads(),
            isa=self._isa,
        )
