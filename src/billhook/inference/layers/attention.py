"""Sparse multi-head attention: its four projections skip zeros, torch computes the attention."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.inference.inputs import check_input
from billhook.inference.layers.base import (
    SparseLayer,
    Weight,
    Weights,
    sparse_weights,
    vector,
)
from billhook.inference.layers.linear import SparseMatrix
from billhook.inference.weights.csr import Csr, SparseWeight, floats, to_csr

__all__ = ["SparseMultiheadAttention"]


class SparseMultiheadAttention(SparseLayer):
    """What an eval-mode :class:`torch.nn.MultiheadAttention` computes, with pruned weights.

    Args:
        module: The dense module; its weights are copied unless others are given.
        isa: The instruction set, a row of the library's table.
        weights: What to use instead of the module's weights, which then may be on "meta".

    >>> import torch
    >>> dense = torch.nn.MultiheadAttention(8, 2).eval()
    >>> x = torch.rand(5, 1, 8)
    >>> y, _ = SparseMultiheadAttention(dense, 0)(x, x, x)
    >>> torch.allclose(y, dense(x, x, x)[0], atol=1e-6)
    True
    """

    # Transformer layers ask for these before they take a path of their own, without calling us.
    in_proj_bias = None
    _qkv_same_embed_dim = True

    weight_parts = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        return (nn.MultiheadAttention,)

    @classmethod
    def obstacle(cls, module: nn.Module, /) -> str | None:
        assert isinstance(module, nn.MultiheadAttention)
        if not torch_private.has_one_width(module):
            return "an attention whose keys or values have their own width has no sparse form"
        if module.bias_k is not None or module.add_zero_attn:
            return "an attention with bias_k or add_zero_attn has no sparse form"
        return None

    def __init__(
        self, module: nn.MultiheadAttention, isa: int, weights: Weights | None = None
    ) -> None:
        own = sparse_weights(module, self.weight_names(module)) if weights is None else weights
        super().__init__(own)
        self.embed_dim, self.num_heads = module.embed_dim, module.num_heads
        self.batch_first = module.batch_first
        bias = vector(self.weights, "in_proj_bias")
        stacked = self.weights["in_proj_weight"] = Stacked.of(self.weights["in_proj_weight"], 3)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        self._project = [
            SparseMatrix(part, floats(own), isa)
            for part, own in zip(stacked.parts, biases, strict=True)
        ]
        bias = vector(self.weights, "out_proj.bias")
        self._out = SparseMatrix(self.weights["out_proj.weight"], floats(bias), isa)

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in (*self._project, self._out))

    def forward(  # noqa: PLR0917, the dense module's signature
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the dense module's; with ``is_causal`` the mask must be given too, and is used."""
        batched = self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise ConfigurationError("is_causal is a hint about attn_mask, which is missing")
        q, k, v = (
            self._heads(matrix.apply(x), batched)
            for matrix, x in zip(self._project, (query, key, value), strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / (self.embed_dim / self.num_heads) ** 0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask)
        y = self._out.apply(y.transpose(1, 2).flatten(2))
        if not batched:
            return y[0], weights
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _check(self, *inputs: torch.Tensor) -> bool:
        """Whether the inputs are batches; an error if they do not fit."""
        for x in inputs:
            check_input("SparseMultiheadAttention", x)
            if x.dim() not in (2, 3) or x.dim() != inputs[0].dim():
                raise ConfigurationError("the inputs must be all (L, E) or all batches of it")
            if x.shape[-1] != self.embed_dim:
                raise ConfigurationError(
                    f"the input's shape is {tuple(x.shape)}: this attention takes "
                    f"{self.embed_dim} features"
                )
        if inputs[1].shape != inputs[2].shape:
            raise ConfigurationError(
                f"key is {tuple(inputs[1].shape)} and value {tuple(inputs[2].shape)}: "
                "they must be alike"
            )
        return inputs[0].dim() == 3

    def _heads(self, x: torch.Tensor, batched: bool) -> torch.Tensor:
        """(N, L, E), or as the module takes it, to (N, heads, L, E / heads)."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        batch, length, _ = x.shape
        return x.reshape(batch, length, self.num_heads, self.embed_dim // self.num_heads).transpose(
            1, 2
        )

    def _mask(
        self,
        attention: torch.Tensor | None,
        padding: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
    ) -> torch.Tensor | None:
        """Both masks as one to add to the scores, (N or 1, heads or 1, L or 1, S)."""
        batch, heads, targets, sources = len(q), self.num_heads, q.shape[2], k.shape[2]
        shapes = {2: (targets, sources), 3: (batch * heads, targets, sources)}
        if attention is not None:
            if tuple(attention.shape) != shapes.get(attention.dim()):
                raise ConfigurationError(
                    f"attn_mask is {tuple(attention.shape)}: {shapes[2]} or {shapes[3]} fits"
                )
            attention = _additive(attention)
            if attention.dim() == 3:
                attention = attention.view(batch, heads, targets, sources)
        if padding is None:
            return attention
        padding = padding if padding.dim() == 2 else padding.unsqueeze(0)
        if tuple(padding.shape) != (batch, sources):
            raise ConfigurationError(
                f"key_padding_mask is {tuple(padding.shape)}: {(batch, sources)} fits"
            )
        padding = _additive(padding)[:, None, None, :]
        return padding if attention is None else attention + padding


def _additive(mask: torch.Tensor) -> torch.Tensor:
    """Minus infinity where a boolean mask is true; a float mask as it is."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(mask, float("-inf"))
    if mask.dtype != torch.float32:
        raise ConfigurationError(f"the mask is {mask.dtype}: give a boolean or fp32 one")
    return mask


class Stacked(SparseWeight):
    """Matrices of one shape below one another, each held by itself."""

    def __init__(self, parts: tuple[SparseWeight, ...]) -> None:
        self.parts, self.nonzeros = parts, sum(part.nonzeros for part in parts)
        rows, columns = parts[0].shape
        self.shape = (len(parts) * rows, columns)

    @classmethod
    def of(cls, weight: Weight, count: int) -> "Stacked":
        """A matrix in so many parts."""
        csr, rows = to_csr(weight), weight.shape[0] // count
        return cls(tuple(_part(csr, i * rows, rows) for i in range(count)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Stacked, (self.parts,)

    @property
    def csr(self) -> Csr:
        parts = [part.csr for part in self.parts]
        before = np.cumsum([0, *(part.nnz for part in parts)])[:-1]
        row_ptr = [part.row_ptr[1:] + start for part, start in zip(parts, before, strict=True)]
        return Csr(
            (self.shape[0], self.shape[1]),
            np.concatenate([parts[0].row_ptr[:1], *row_ptr]).astype(np.int32),
            np.concatenate([part.column for part in parts]),
            np.concatenate([part.value for part in parts]),
        )


def _part(csr: Csr, start: int, count: int) -> SparseWeight:
    """``count`` rows from ``start`` on, in memory of their own."""
    row_ptr = csr.row_ptr[start : start + count + 1]
    own, shape = slice(int(row_ptr[0]), int(row_ptr[-1])), (count, csr.shape[1])
    part = Csr(shape, row_ptr - row_ptr[0], csr.column[own].copy(), csr.value[own].copy())
    return SparseWeight(shape, part)
