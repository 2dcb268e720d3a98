"""The kinds of layers that have a sparse form, and why each other one has none."""

from collections.abc import Iterator

import torch
from torch import nn

from billhook.inference.layers.attention import SparseMultiheadAttention
from billhook.inference.layers.base import SparseLayer, Weights, foreign_hooks
from billhook.inference.layers.conv import SparseConv
from billhook.inference.layers.gru import SparseGRU
from billhook.inference.layers.linear import SparseLinear
from billhook.inference.layers.lstm import SparseLSTM
from billhook.inference.layers.transposed_linear import SparseTransposedLinear
from billhook.inference.plan import Choice

__all__ = ["KINDS", "candidates", "dense_only", "kind_of", "make_sparse", "obstacle"]

KINDS: tuple[type[SparseLayer], ...] = (
    SparseLinear,
    SparseConv,
    SparseLSTM,
    SparseGRU,
    SparseMultiheadAttention,
    SparseTransposedLinear,
)


# What decides a layer's outputs beside its parameters; a subclass with these as they were is alike.
_RUNS = ("__call__", "_call_impl", "forward", "_conv_forward", "__getattr__")


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model whose kind has a sparse form, by name.

    >>> [name for name, _ in candidates(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))]
    ['0']
    """
    # An attention reads the weight of its projection instead of calling it.
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    inner = {id(part) for attention in attentions for part in attention.children()}
    for name, module in model.named_modules():
        if _base(module) and _runs_as_base(module) and id(module) not in inner:
            yield name, module


def kind_of(module: nn.Module) -> type[SparseLayer]:
    """The class that replaces a candidate."""
    return next(kind for kind in KINDS if isinstance(module, kind.dense_types()))


def _base(module: nn.Module) -> type[nn.Module] | None:
    bases = (base for kind in KINDS for base in kind.dense_types())
    return next((base for base in bases if isinstance(module, base)), None)


def _runs_as_base(module: nn.Module) -> bool:
    kind, base = type(module), _base(module)
    same = all(getattr(kind, name, None) is getattr(base, name, None) for name in _RUNS)
    return same and not any(name in vars(module) for name in _RUNS)


def dense_only(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The other modules that own weights of two or more dimensions, and why they stay dense."""
    inside = {id(part) for _, layer in candidates(model) for part in layer.modules()}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        if own and id(module) not in inside:
            yield name, module, _why_dense(module)


def _why_dense(module: nn.Module) -> str:
    kind, base = type(module).__name__, _base(module)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "rows are looked up, nothing is multiplied"
    if base is not None and any(name in vars(module) for name in _RUNS):
        return "this module's forward was replaced"
    if base is not None and not _runs_as_base(module):
        return f"{kind} runs otherwise than {base.__name__}, of which it is a subclass"
    if base is not None:
        return "its attention reads its weight instead of calling it"
    return f"{kind} has no sparse form"


def obstacle(module: nn.Module) -> str | None:
    """Why a layer of one of ``KINDS`` has no sparse form, if so."""
    if any(p.dtype != torch.float32 for p in module.parameters()):
        return "its weights are not fp32"
    if any(p.layout != torch.strided for p in module.parameters()):
        return "its weights are sparse tensors of torch: make them dense with zeros"
    if foreign_hooks(module):
        return "it has forward hooks, which a replacement would lose"
    return kind_of(module).obstacle(module)


def make_sparse(
    module: nn.Module, choice: Choice, isa: int, weights: Weights | None = None
) -> SparseLayer:
    """The sparse form of a layer, with its own weights or the ones given."""
    return kind_of(module).of(module, choice, isa, weights)
