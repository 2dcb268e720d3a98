"""Linear, recurrent and attention layers with their matrices in 8 bits.

Inputs, results, gates, cell states and biases are fp32; each sample becomes bytes at its own step,
a recurrent state at a fixed one.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Self

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference.inputs import check_input
from billhook.inference.int8 import bindings
from billhook.inference.int8.matrix import STATE_STEP, Int8Matrix, Int8Weight, quantised
from billhook.inference.isa import index_of, name_of
from billhook.inference.layers.attention import SparseMultiheadAttention
from billhook.inference.layers.base import SparseLayer
from billhook.inference.layers.gru import SparseGRU, gru_step_by_step
from billhook.inference.layers.lstm import SparseLSTM, step_by_step
from billhook.inference.layers.recurrent import Counts, Direction, SparseRecurrent, State
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import floats

__all__ = ["DENSE_TYPES", "Int8Weights", "make_int8", "quantised_weights"]

DENSE_TYPES = (nn.Linear, nn.LSTM, nn.GRU, nn.MultiheadAttention)

Int8Weights = Mapping[str, Int8Weight | torch.Tensor]
"""The parameters of a layer by the dense module's names: matrices in 8 bits, vectors fp32."""


def quantised_weights(module: nn.Module) -> Int8Weights:
    """The parameters of a dense layer, its matrices in 8 bits."""
    kind = next(form for dense, form in _FORMS.items() if isinstance(module, dense))
    names = kind.weight_names(module)
    tensors = {name: attrgetter(name)(module).detach() for name in names}
    return {name: quantised(t) if t.dim() > 1 else t.clone() for name, t in tensors.items()}


def make_int8(
    module: nn.Module, choice: Choice, instruction_set: str, weights: Int8Weights | None = None
) -> SparseLayer:
    """The form in 8 bits of a layer of one of ``DENSE_TYPES``, with its own weights or those given.

    >>> weight = quantised(torch.tensor([[1.27, 0.0]]))
    >>> linear = nn.Linear(2, 1, bias=False)
    >>> layer = make_int8(linear, Choice("1x4"), "portable", {"weight": weight})
    >>> round(float(layer(torch.tensor([[2.0, 3.0]])).detach()), 2)
    2.55
    """
    own = quantised_weights(module) if weights is None else weights
    kind = next(form for dense, form in _FORMS.items() if isinstance(module, dense))
    isa = index_of(instruction_set, "int8")
    return kind.of(module, choice, isa, own)  # type: ignore[arg-type]


class _Packs:
    """Matrices of a layer's weights, all run by one kernel."""

    def __init__(self, weights: Int8Weights, choice: Choice, instruction_set: str) -> None:
        # The layers that this module shares its code with declare their weights as sparse.
        self.weights: Any = dict(weights)
        self.choice, self.instruction_set = choice, instruction_set

    def vector(self, name: str) -> torch.Tensor | None:
        """A bias, None if the layer has none."""
        tensor = self.weights.get(name)
        assert tensor is None or isinstance(tensor, torch.Tensor)
        return tensor

    def matrix(
        self, name: str, bias: torch.Tensor | None, step: float = 0.0, rows: slice = slice(None)
    ) -> Int8Matrix:
        """Some rows of a matrix with their bias; inputs at ``step``, 0 for each sample's own."""
        weight = self.weights[name]
        assert isinstance(weight, Int8Weight)
        part = Int8Weight(weight.value[rows], weight.step[rows])
        return Int8Matrix(part, floats(bias), self.choice, self.instruction_set, step)


class _Int8(SparseLayer):
    """What the layers in 8 bits share: they are made of a module and its packed matrices."""

    def __init__(self, module: nn.Module, packs: _Packs) -> None:
        raise NotImplementedError

    @classmethod
    def make(cls, module: nn.Module, choice: Choice, isa: int, weights: Any) -> Self:
        """The form in 8 bits of a module; ``isa`` is a row of the table of instruction sets."""
        return cls(module, _Packs(weights, choice, name_of(isa)))


class Int8Linear(_Int8):
    """``y = x W^T + b`` with W in 8 bits: what :class:`torch.nn.Linear` computes."""

    def __init__(self, module: nn.Module, packs: _Packs) -> None:
        SparseLayer.__init__(self, packs.weights)
        del module
        self.matrix = packs.matrix("weight", packs.vector("bias"))
        self.out_features, self.in_features = self.matrix.weight.shape

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        check_input("a linear layer in 8 bits", x)
        if x.shape[-1:] != (self.in_features,):
            raise ConfigurationError(
                f"the input's last dimension is {tuple(x.shape[-1:])}, "
                f"this layer takes {self.in_features} features"
            )
        return self.matrix.apply(x)


def _check_state(h: torch.Tensor) -> None:
    """A state at a fixed step must lie where that step reaches."""
    if not bool((h.abs() <= 1).all()):
        raise ConfigurationError(
            f"the state at the start reaches {float(h.abs().max()):.3g}: "
            "in 8 bits a recurrent state must lie between -1 and 1, as those that it returns do"
        )


class _Int8Recurrent(_Int8, SparseRecurrent):
    """What the recurrent layers share: a state that is not projected lies between -1 and 1."""

    def __init__(self, module: nn.RNNBase, packs: _Packs) -> None:
        self.packs = packs
        SparseRecurrent.__init__(self, module, 0, packs.weights)

    def _matrix(
        self, name: str, bias: torch.Tensor | None, isa: int, *, bounded: bool = False
    ) -> Any:
        del isa
        return self.packs.matrix(name, bias, STATE_STEP if bounded else 0.0)


class Int8LSTM(_Int8Recurrent, SparseLSTM):
    """What an eval-mode :class:`torch.nn.LSTM` computes, its matrices in 8 bits."""

    def _direction(
        self, d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
    ) -> None:
        h, c = state
        if d.projection is None:
            _check_state(h)
        if d.projection is not None or counts[0] != 1:
            step_by_step(d, x, counts, state, y)
            return
        recurrent: Int8Matrix = d.recurrent  # type: ignore[assignment]
        bindings.lstm(
            recurrent.for_vectors(),
            d.input.multiply(x),
            (h[0], c[0]),
            y,
            reverse=d.reverse,
            threads=torch.get_num_threads(),
            isa=recurrent.isa,
        )


class Int8GRU(_Int8Recurrent, SparseGRU):
    """What an eval-mode :class:`torch.nn.GRU` computes, its matrices in 8 bits."""

    def _direction(
        self, d: Direction, x: torch.Tensor, counts: Counts, state: State, y: torch.Tensor
    ) -> None:
        _check_state(state[0])
        gru_step_by_step(d, x, counts, state, y)


class Int8MultiheadAttention(_Int8, SparseMultiheadAttention):
    """What an eval-mode :class:`torch.nn.MultiheadAttention` computes, projecting in 8 bits."""

    def __init__(self, module: nn.MultiheadAttention, packs: _Packs) -> None:
        SparseLayer.__init__(self, packs.weights)
        self.embed_dim, self.num_heads = module.embed_dim, module.num_heads
        self.batch_first = module.batch_first
        bias = packs.vector("in_proj_bias")
        parts = [None] * 3 if bias is None else bias.chunk(3)
        width = self.embed_dim
        rows = (slice(i * width, (i + 1) * width) for i in range(3))
        matrices = [
            packs.matrix("in_proj_weight", part, rows=own)
            for part, own in zip(parts, rows, strict=True)
        ]
        self._project = matrices  # type: ignore[assignment]
        bias = packs.vector("out_proj.bias")
        self._out = packs.matrix("out_proj.weight", bias)  # type: ignore[assignment]


_FORMS: dict[type[nn.Module], type[_Int8]] = {
    nn.Linear: Int8Linear,
    nn.LSTM: Int8LSTM,
    nn.GRU: Int8GRU,
    nn.MultiheadAttention: Int8MultiheadAttention,
}
