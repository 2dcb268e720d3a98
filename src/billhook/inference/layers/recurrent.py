"""What sparse recurrent layers share: the inputs that torch's take, layers and directions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.inference.inputs import check_input
from billhook.inference.layers.base import (
    SparseLayer,
    Weights,
    sparse_weights,
    vector,
)
from billhook.inference.layers.linear import SparseMatrix
from billhook.inference.weights.csr import floats

__all__ = ["Counts", "Direction", "SparseRecurrent", "State", "time_steps"]

Counts = NDArray[np.int64]
"""How many samples each time step of a packed batch has, falling."""
State = tuple[torch.Tensor, ...]
"""The state's parts, each (samples, units)."""


@dataclass
class Direction:
    """One direction of one layer: the matrices of the input, the state, and the projection."""

    input: SparseMatrix
    recurrent: SparseMatrix
    projection: SparseMatrix | None
    reverse: bool


class SparseRecurrent(SparseLayer):
    """Layers, directions, ``batch_first``, packed sequences and unbatched input as in torch.

    Args:
        module: The dense module; its weights are copied unless others are given.
        isa: The instruction set, a row of the library's table.
        weights: What to use instead of the module's weights, which then may be on "meta".
    """

    state_names: tuple[str, ...]
    joins_biases: bool  # the input matrix adds both biases, instead of each matrix its own

    def __init__(self, module: nn.RNNBase, isa: int, weights: Weights | None = None) -> None:
        own = sparse_weights(module, self.weight_names(module)) if weights is None else weights
        super().__init__(own)
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        self.output_size = module.proj_size or module.hidden_size
        self.num_layers, self.bidirectional = module.num_layers, module.bidirectional
        self.batch_first = module.batch_first
        suffixes = ("", "_reverse")[: 1 + module.bidirectional]
        self.layers = [
            [self._pack(f"l{layer}{suffix}", isa) for suffix in suffixes]
            for layer in range(module.num_layers)
        ]

    @classmethod
    def weight_names(cls, module: nn.Module) -> list[str]:
        assert isinstance(module, nn.RNNBase)
        return torch_private.flat_weights_names(module)

    def positions(self, x: Any) -> int:
        """How often a call with this input uses each weight."""
        return super().positions(x.data if isinstance(x, PackedSequence) else x)

    def _pack(self, suffix: str, isa: int) -> Direction:
        biases = [vector(self.weights, f"bias_{i}h_{suffix}") for i in "ih"]
        if self.joins_biases and biases[0] is not None and biases[1] is not None:
            biases = [biases[0] + biases[1], None]
        projected = f"weight_hr_{suffix}" in self.weights
        return Direction(
            self._matrix(f"weight_ih_{suffix}", biases[0], isa),
            self._matrix(f"weight_hh_{suffix}", biases[1], isa, bounded=not projected),
            self._matrix(f"weight_hr_{suffix}", None, isa) if projected else None,
            suffix.endswith("_reverse"),
        )

    def _matrix(
        self, name: str, bias: torch.Tensor | None, isa: int, *, bounded: bool = False
    ) -> SparseMatrix:
        """A matrix, packed; the inputs of a ``bounded`` one lie between -1 and 1."""
        del bounded
        return SparseMatrix(self.weights[name], floats(bias), isa)

    @property
    def nbytes(self) -> int:
        directions = [d for layer in self.layers for d in layer]
        matrices = [m for d in directions for m in (d.input, d.recurrent, d.projection)]
        return sum(m.nbytes for m in matrices if m is not None)

    def flatten_parameters(self) -> None:
        """Nothing to do: some models call this before every forward."""

    def forward(self, input: torch.Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """As the dense module's: output and last state."""
        state = hx if hx is None or isinstance(hx, tuple | list) else (hx,)
        given = self._packed if isinstance(input, PackedSequence) else self._padded
        output, last = given(input, state)  # type: ignore[arg-type]
        return output, last if len(self.state_names) > 1 else last[0]

    def _padded(self, input: torch.Tensor, hx: State | None) -> tuple[torch.Tensor, State]:
        check_input(type(self).__name__, input)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ConfigurationError(
                f"the input's shape is {tuple(input.shape)}: this layer takes (time, batch, "
                f"{self.input_size}), batch first if so built, or (time, {self.input_size})"
            )
        unbatched = input.dim() == 2
        x = input.unsqueeze(1) if unbatched else input
        if self.batch_first and not unbatched:
            x = x.transpose(0, 1)
        if unbatched and hx is not None:
            hx = tuple(part.unsqueeze(1) for part in hx)
        time, batch, _ = x.shape
        if time == 0:
            raise ConfigurationError(
                f"the input's shape is {tuple(input.shape)}: it has no time steps"
            )
        counts = np.full(time, batch, np.int64)
        flat, last = self._run(
            x.reshape(time * batch, self.input_size), counts, self._state(hx, batch)
        )
        y = flat.view(time, batch, (1 + self.bidirectional) * self.output_size)
        if unbatched:
            return y.squeeze(1), tuple(part.squeeze(1) for part in last)
        return (y.transpose(0, 1) if self.batch_first else y), last

    def _packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        check_input(type(self).__name__, packed.data)
        if packed.data.shape[-1] != self.input_size:
            raise ConfigurationError(
                f"the packed input has {packed.data.shape[-1]} features, this layer takes "
                f"{self.input_size}"
            )
        counts = packed.batch_sizes.numpy().astype(np.int64)
        state = self._state(hx, int(counts[0]))
        if packed.sorted_indices is not None:
            state = tuple(part.index_select(1, packed.sorted_indices) for part in state)
        data, last = self._run(packed.data, counts, state)
        if packed.unsorted_indices is not None:
            last = tuple(part.index_select(1, packed.unsorted_indices) for part in last)
        output = PackedSequence(
            data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        return output, last

    def _state(self, hx: State | None, batch: int) -> State:
        """The state at the start, checked: for each part (layers * directions, batch, units)."""
        sizes = (self.output_size, self.hidden_size)[: len(self.state_names)]
        layers = self.num_layers * (1 + self.bidirectional)
        if hx is None:
            zeros = partial(torch.zeros, dtype=torch.float32, device="cpu")
            return tuple(zeros(layers, batch, size) for size in sizes)
        if len(hx) != len(sizes):
            raise ConfigurationError(
                f"the state has {len(hx)} parts, this layer's are {', '.join(self.state_names)}"
            )
        for name, state, size in zip(self.state_names, hx, sizes, strict=True):
            check_input(type(self).__name__, state)
            if tuple(state.shape) != (layers, batch, size):
                raise ConfigurationError(
                    f"{name} has shape {tuple(state.shape)}, needed {(layers, batch, size)}"
                )
        return tuple(hx)

    def _run(self, x: torch.Tensor, counts: Counts, state: State) -> tuple[torch.Tensor, State]:
        """Packed (sum of counts, input_size) to (sum of counts, directions * output_size)."""
        x = x.detach().resolve_neg().contiguous()
        last = tuple(part.detach().clone(memory_format=torch.contiguous_format) for part in state)
        if counts[0] == 0:
            return x.new_empty(0, (1 + self.bidirectional) * self.output_size), last
        for index, layer in enumerate(self.layers):
            y = x.new_empty(len(x), len(layer) * self.output_size)
            for d, direction in enumerate(layer):
                own = tuple(part[index * len(layer) + d] for part in last)
                part = y[:, d * self.output_size : (d + 1) * self.output_size]
                self._direction(direction, x, counts, own, part)
            x = y
        return x, last

    def _direction(
        self, d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
    ) -> None:
        """Fills y, and leaves the last state in ``state``."""
        raise NotImplementedError


def time_steps(counts: Counts, reverse: bool) -> Iterator[tuple[int, slice]]:
    """For each time step, in the order they run, its samples and their rows in the packed batch.

    >>> list(time_steps(np.array([2, 1]), reverse=True))
    [(1, slice(2, 3, None)), (2, slice(0, 2, None))]
    """
    stops = [int(stop) for stop in np.cumsum(counts)]
    steps = [
        (int(count), slice(stop - int(count), stop))
        for count, stop in zip(counts, stops, strict=True)
    ]
    return iter(steps[::-1] if reverse else steps)
