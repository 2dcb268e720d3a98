"""Sparse GRU: the input matrix for all time steps at once, the recurrent one step by step."""

import torch
from torch import nn

from billhook.inference import kernels
from billhook.inference.layers.recurrent import (
    Counts,
    Direction,
    SparseRecurrent,
    State,
    time_steps,
)
from billhook.inference.weights.lanes import MAX_LANE_COLUMNS

__all__ = ["SparseGRU", "gru_step_by_step"]


class SparseGRU(SparseRecurrent):
    """What an eval-mode :class:`torch.nn.GRU` computes, with pruned weights.

    r, z = sigmoid of their gates; n = tanh(W_in x + b_in + r (W_hn h + b_hn));
    h = (1 - z) n + z h. One native call for the input; then one for all steps of a single sample,
    or one for each step of several samples.

    >>> import torch
    >>> dense = torch.nn.GRU(3, 4).eval()
    >>> x = torch.ones(5, 2, 3)
    >>> torch.allclose(SparseGRU(dense, 0)(x)[0], dense(x)[0], atol=1e-6)
    True
    """

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        return (nn.GRU,)

    state_names = ("h_0",)
    joins_biases = False

    def _direction(
        self, d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
    ) -> None:
        if counts[0] != 1 or self.hidden_size > MAX_LANE_COLUMNS:
            gru_step_by_step(d, x, counts, state, y)
            return
        kernels.recurrent_vector(
            "gru",
            d.recurrent.lanes().struct,
            d.input.multiply(x),
            (state[0][0],),
            y,
            reverse=d.reverse,
            threads=torch.get_num_threads(),
            isa=d.recurrent.isa,
        )


def gru_step_by_step(
    d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
) -> None:
    """The gates of each step by torch, with one native call for the state's matrix."""
    gates, (h,) = d.input.multiply(x), state
    for n, rows in time_steps(counts, d.reverse):
        r, z, new = gates[rows].chunk(3, 1)
        hidden_r, hidden_z, hidden_new = d.recurrent.multiply(h[:n]).chunk(3, 1)
        new = (new + (r + hidden_r).sigmoid() * hidden_new).tanh()
        h[:n] = new + (z + hidden_z).sigmoid() * (h[:n] - new)
        y[rows] = h[:n]
