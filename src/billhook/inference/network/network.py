"""The network plan: a feed-forward CNN as steps over one workspace, one native call per batch."""

import math
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.graph import Layer, Op
from billhook.inference.graph.ops import Packed, Packings
from billhook.inference.inputs import check_input
from billhook.inference.limits import Limits, opening_floats, work
from billhook.inference.network.lowering import Lowering, Native
from billhook.inference.plan import Choice

__all__ = ["Network", "packed_bytes"]

MAX_FLOATS = 2**31 - 1  # of a workspace: offsets have 32 bits


class Network(nn.Module):
    """A CNN for inputs ``(N, *input_shape)``, any N; results ``(N, *output_shape)``, fp32.

    Several threads may call it at once; each call takes a workspace of its own from a pool.

    Args:
        ops: The operations, as :func:`billhook.inference.graph.capture.capture` gives them.
        input_shape: (C, H, W) of one sample.
        choices: The plan: one choice for each convolution and linear layer, by name.
        isa: The instruction set, a row of the library's table.
        limits: What a program from a file may take, None for one that this process made.
        packings: What networks of other input sizes, and else the same, have packed.

    Raises:
        ConfigurationError: A sample needs more floats than the kernels count to.
        ValueError: The program takes more than its limits.
    """

    def __init__(
        self,
        ops: list[Op],
        input_shape: tuple[int, int, int],
        choices: Mapping[str, Choice],
        isa: int,
        *,
        limits: Limits | None = None,
        packings: Packings | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.input_shape, self.choices, self.isa = ops, input_shape, dict(choices), isa
        self.output_shape = ops[-1].shape
        self.lowering = Lowering(ops, input_shape, self.choices, isa, packings)
        if self.lowering.placed.size > MAX_FLOATS:
            raise ConfigurationError(
                f"a sample of {tuple(input_shape)} needs {self.lowering.placed.size} floats, the "
                f"kernels count to {MAX_FLOATS}: compile for a smaller input"
            )
        if limits is not None:
            self._check(limits)
        self.program = self.lowering.program()
        self._pool: list[torch.Tensor] = []
        self._lock = threading.Lock()
        self.eval()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.ops, self.input_shape, self.choices, self.isa)

    def _check(self, limits: Limits) -> None:
        placed = self.lowering.placed
        limits.check("one sample", placed.size, limits.workspace)
        limits.check("opening it", opening_floats(self.ops, set(placed.layouts)), limits.opening)
        limits.check("running it", work(self.ops, self.input_shape), limits.work)

    def takes_at_most(self, floats: int) -> bool:
        """Whether one sample takes no more floats of memory, and makes no more read."""
        both = max(self.lowering.placed.size, work(self.ops, self.input_shape))
        return max(both, math.prod(self.input_shape)) <= floats

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, and of those that torch uses."""
        dense = (
            op.dense_weight.nbytes
            for op in self.ops
            if isinstance(op, Layer) and self.choices[op.name].kernel == "dense"
        )
        return sum(dense) + packed_bytes(self.lowering.packed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the network's results."""
        check_input("this program", x)
        if tuple(x.shape[1:]) != self.input_shape:
            raise ConfigurationError(
                f"the input's shape is {tuple(x.shape)}: this program was compiled for "
                f"(N, {', '.join(map(str, self.input_shape))}); compile it again for another size"
            )
        x = x.detach().resolve_neg().contiguous()
        y = x.new_empty(x.shape[0], *self.output_shape)
        workspace = self.take()
        try:
            self._run(workspace, x, y)
        finally:
            self.give(workspace)
        return y

    def take(self) -> torch.Tensor:
        """A workspace whose padding is zero."""
        with self._lock:
            if self._pool:
                return self._pool.pop()
        return torch.zeros(self.lowering.placed.size, dtype=torch.float32, device="cpu")

    def give(self, workspace: torch.Tensor) -> None:
        """Back into the pool."""
        with self._lock:
            self._pool.append(workspace)

    def _run(self, workspace: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> None:
        if len(self.program) == 1 and isinstance(self.program[0], Native):
            self.run_native(self.program[0], workspace, x, y)
            return
        for i in range(len(x)):
            for part in self.program:
                if isinstance(part, Native):
                    self.run_native(part, workspace, x[i : i + 1], y[i : i + 1])
                else:
                    part(workspace, x[i], y[i])

    def run_native(
        self, part: Native, workspace: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> None:
        """The steps for every sample of x."""
        buffers = (workspace.data_ptr(), x.data_ptr(), y.data_ptr())
        samples = x.shape[0]
        strides = (0, x.numel() // max(samples, 1), y.numel() // max(samples, 1))
        threads = torch.get_num_threads()
        kernels.run_steps(
            part.steps, buffers, strides, samples=samples, threads=threads, isa=self.isa
        )


def _again(
    ops: list[Op], shape: tuple[int, int, int], choices: dict[str, Choice], isa: int
) -> Network:
    """A copy, with this machine's kernels if it comes from a better one."""
    return Network(ops, shape, choices, kernels.runnable(isa))


def packed_bytes(packed: Iterable[Packed]) -> int:
    """Bytes of the arrays of packed weights, each array once."""
    arrays = {id(array): array for rows in packed for array in rows.arrays()}
    return sum(array.nbytes for array in arrays.values())
