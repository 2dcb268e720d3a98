"""Sparse LSTM: the input matrix for all time steps at once, the recurrent one step by step."""

import numpy as np
import torch
from torch import nn

from billhook.inference import kernels
from billhook.inference.layers.linear import panel_width
from billhook.inference.layers.recurrent import (
    Counts,
    Direction,
    SparseRecurrent,
    State,
    time_steps,
)
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS

__all__ = ["SparseLSTM", "step_by_step"]


class SparseLSTM(SparseRecurrent):
    """What an eval-mode :class:`torch.nn.LSTM` computes, with pruned weights.

    One native call per layer and direction; with ``proj_size`` one per matrix and step.

    >>> import torch
    >>> dense = torch.nn.LSTM(3, 4).eval()
    >>> x = torch.ones(5, 2, 3)
    >>> torch.allclose(SparseLSTM(dense, 0)(x)[0], dense(x)[0], atol=1e-6)
    True
    """

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        return (nn.LSTM,)

    state_names = ("h_0", "c_0")
    joins_biases = True

    def _direction(
        self, d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
    ) -> None:
        if d.projection is not None:
            step_by_step(d, x, counts, state, y)
        elif counts[0] == 1 and self.hidden_size <= MAX_LANE_COLUMNS:
            _one_sample(d, x, (state[0][0], state[1][0]), y)
        else:
            for start in range(0, int(counts[0]), panel_width(int(counts[0]), d.recurrent.isa)):
                _some_samples(d, x, counts, start=start, state=state, y=y)


def step_by_step(
    d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
) -> None:
    """h = sigmoid(o) tanh(c), or W_hr times that, with one call per matrix and step."""
    gates, (h, c) = d.input.multiply(x), state
    for n, rows in time_steps(counts, d.reverse):
        i, f, g, o = (gates[rows] + d.recurrent.multiply(h[:n])).chunk(4, 1)
        c[:n] = f.sigmoid() * c[:n] + i.sigmoid() * g.tanh()
        out = o.sigmoid() * c[:n].tanh()
        h[:n] = out if d.projection is None else d.projection.multiply(out)
        y[rows] = h[:n]


def _one_sample(
    d: Direction, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor
) -> None:
    """One sample: gates and outputs are rows, the recurrent product is SpMV."""
    gates = d.input.multiply(x)
    kernels.recurrent_vector(
        "lstm",
        d.recurrent.lanes().struct,
        gates,
        state,
        y,
        reverse=d.reverse,
        threads=torch.get_num_threads(),
        isa=d.recurrent.isa,
    )


def _some_samples(
    d: Direction,
    x: torch.Tensor,
    counts: Counts,
    *,
    start: int,
    state: State,
    y: torch.Tensor,
) -> None:
    """Samples from ``start`` on, as many as a panel holds, as columns: the product is SpMM."""
    width, units = panel_width(int(counts[0]) - start, d.recurrent.isa), d.recurrent.weight.shape[1]
    stop = min(start + width, int(counts[0]))
    own = np.clip(counts - start, 0, stop - start)
    rows = torch.from_numpy(_rows_of(counts, own, start))
    whole = len(rows) == len(x)
    panels = [x.new_zeros(units, width), x.new_zeros(units, width)]
    for panel, given in zip(panels, state, strict=True):
        panel[:, : stop - start] = given[start:stop].t()
    outputs = y if whole else x.new_empty(len(rows), units)
    kernels.lstm_batch(
        d.recurrent.gates().struct,
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
