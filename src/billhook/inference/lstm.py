"""Sparse LSTM: the input matrix for all time steps at once, the recurrent one step by step."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.linear import SparseMatrix, check_input, panel_width
from billhook.inference.packing import MAX_LANE_COLUMNS, floats, to_csr

__all__ = ["SparseLSTM"]

State = tuple[torch.Tensor, torch.Tensor]
Counts = NDArray[np.int64]


@dataclass
class _Direction:
    """One direction of one layer; the input matrix adds both biases."""

    input: SparseMatrix
    recurrent: SparseMatrix
    reverse: bool


class SparseLSTM(nn.Module):
    """What an eval-mode :class:`torch.nn.LSTM` computes, with pruned weights.

    Layers, directions, ``batch_first``, packed sequences and unbatched input as there; no
    projections. fp32.

    Args:
        lstm: The dense module; its weights are copied.
        isa: The instruction set, an index into ``kernels.ISA_NAMES``.

    >>> import torch
    >>> dense = torch.nn.LSTM(3, 4).eval()
    >>> x = torch.ones(5, 2, 3)
    >>> torch.allclose(SparseLSTM(dense, 0)(x)[0], dense(x)[0], atol=1e-6)
    True
    """

    def __init__(self, lstm: nn.LSTM, isa: int) -> None:
        super().__init__()
        if lstm.proj_size:
            raise ConfigurationError(f"proj_size is {lstm.proj_size}: SparseLSTM has no projection")
        self.input_size, self.hidden_size = lstm.input_size, lstm.hidden_size
        self.num_layers, self.bidirectional = lstm.num_layers, lstm.bidirectional
        self.batch_first = lstm.batch_first
        self.layers = [
            [
                _pack(lstm, layer, reverse, isa)
                for reverse in ((False, True)[: 1 + self.bidirectional])
            ]
            for layer in range(lstm.num_layers)
        ]

    def flatten_parameters(self) -> None:
        """Nothing to do: some models call this before every forward."""

    def extra_repr(self) -> str:
        matrices = [m for layer in self.layers for d in layer for m in (d.input, d.recurrent)]
        nnz = sum(m.csr.nnz for m in matrices)
        return f"{self.input_size}, {self.hidden_size}, layers={self.num_layers}, nonzeros={nnz}"

    def forward(
        self, input: torch.Tensor | PackedSequence, hx: State | None = None
    ) -> tuple[torch.Tensor | PackedSequence, State]:
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        check_input("SparseLSTM", input)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ConfigurationError(
                f"the input's shape is {tuple(input.shape)}: SparseLSTM takes (time, batch, "
                f"{self.input_size}), batch first if so built, or (time, {self.input_size})"
            )
        unbatched = input.dim() == 2
        x = (
            input.unsqueeze(1)
            if unbatched
            else input.transpose(0, 1)
            if self.batch_first
            else input
        )
        if unbatched and hx is not None:
            hx = hx[0].unsqueeze(1), hx[1].unsqueeze(1)
        time, batch, _ = x.shape
        if time == 0 or batch == 0:
            raise ConfigurationError(f"the input's shape is {tuple(input.shape)}: it is empty")
        counts = np.full(time, batch, np.int64)
        flat, (h, c) = self._run(x.reshape(time * batch, -1), counts, self._state(hx, batch))
        y = flat.view(time, batch, -1)
        if unbatched:
            return y.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return (y.transpose(0, 1) if self.batch_first else y), (h, c)

    def _packed(self, packed: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        check_input("SparseLSTM", packed.data)
        counts = packed.batch_sizes.numpy().astype(np.int64)
        h, c = self._state(hx, int(counts[0]))
        if packed.sorted_indices is not None:
            h, c = (
                h.index_select(1, packed.sorted_indices),
                c.index_select(1, packed.sorted_indices),
            )
        data, (h, c) = self._run(packed.data, counts, (h, c))
        if packed.unsorted_indices is not None:
            h, c = (s.index_select(1, packed.unsorted_indices) for s in (h, c))
        output = PackedSequence(
            data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        return output, (h, c)

    def _state(self, hx: State | None, batch: int) -> State:
        shape = (self.num_layers * (1 + self.bidirectional), batch, self.hidden_size)
        if hx is None:
            return torch.zeros(shape), torch.zeros(shape)
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            check_input("SparseLSTM", state)
            if tuple(state.shape) != shape:
                raise ConfigurationError(f"{name} has shape {tuple(state.shape)}, needed {shape}")
        return hx

    def _run(self, x: torch.Tensor, counts: Counts, state: State) -> tuple[torch.Tensor, State]:
        """Packed (sum of counts, input_size) to (sum of counts, directions * units)."""
        x = x.detach().contiguous()
        h, c = state[0].detach().clone(), state[1].detach().clone()
        vector = counts[0] == 1 and self.hidden_size <= MAX_LANE_COLUMNS
        for index, layer in enumerate(self.layers):
            y = x.new_empty(len(x), len(layer) * self.hidden_size)
            for d, direction in enumerate(layer):
                s = index * len(layer) + d
                part = y[:, d * self.hidden_size : (d + 1) * self.hidden_size]
                if vector:
                    _one_sample(direction, x, (h[s, 0], c[s, 0]), part)
                else:
                    widest = panel_width(int(counts[0]), direction.recurrent.isa)
                    for start in range(0, int(counts[0]), widest):
                        own = h[s], c[s]
                        _some_samples(direction, x, counts, start=start, state=own, y=part)
            x = y
        return x, (h, c)


def _pack(lstm: nn.LSTM, layer: int, reverse: bool, isa: int) -> _Direction:
    suffix = f"l{layer}" + ("_reverse" if reverse else "")
    w_ih, w_hh = getattr(lstm, f"weight_ih_{suffix}"), getattr(lstm, f"weight_hh_{suffix}")
    bias = None
    if lstm.bias:
        bias = getattr(lstm, f"bias_ih_{suffix}") + getattr(lstm, f"bias_hh_{suffix}")
    return _Direction(
        SparseMatrix(to_csr(w_ih), floats(bias), isa),
        SparseMatrix(to_csr(w_hh), None, isa),
        reverse,
    )


def _one_sample(d: _Direction, x: torch.Tensor, state: State, y: torch.Tensor) -> None:
    """One sample: gates and outputs are rows, the recurrent product is SpMV."""
    gates = d.input.multiply(x)
    kernels.lstm_vector(
        d.recurrent.lanes().struct,
        gates,
        state,
        y,
        reverse=d.reverse,
        threads=torch.get_num_threads(),
        isa=d.recurrent.isa,
    )


def _some_samples(
    d: _Direction,
    x: torch.Tensor,
    counts: Counts,
    *,
    start: int,
    state: State,
    y: torch.Tensor,
) -> None:
    """Samples from ``start`` on, as many as a panel holds, as columns: the product is SpMM."""
    width, units = panel_width(int(counts[0]) - start, d.recurrent.isa), d.recurrent.csr.shape[1]
    stop = min(start + width, int(counts[0]))
    own = np.clip(counts - start, 0, stop - start)
    rows = torch.from_numpy(_rows_of(counts, own, start))
    whole = len(rows) == len(x)
    panels = [torch.zeros(units, width), torch.zeros(units, width)]
    for panel, given in zip(panels, state, strict=True):
        panel[:, : stop - start] = given[start:stop].t()
    outputs = y if whole else x.new_empty(len(rows), units)
    kernels.lstm_batch(
        d.recurrent.whole(width).struct,
        d.input.multiply(x if whole else x[rows]),
        (panels[0], panels[1]),
        outputs,
        first=(np.cumsum(own) - own).astype(np.int64),
        counts=own,
        reverse=d.reverse,
        threads=torch.get_num_threads(),
        isa=d.recurrent.isa,
    )
    for panel, given in zip(panels, state, strict=True):
        given[start:stop] = panel[:, : stop - start].t()
    if not whole:
        y[rows] = outputs


def _rows_of(counts: Counts, own: Counts, start: int) -> Counts:
    """The packed rows of samples [start, start + own[t]) at every step t."""
    begin = np.concatenate([[0], np.cumsum(counts)[:-1]]) + start
    within = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
    rows: Counts = np.repeat(begin, own) + within
    return rows
