"""The base of modules that replace dense layers: packed weights under the dense names."""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import SparseWeight, sparse
from billhook.inference.weights.stand_in import StandIn

__all__ = [
    "SparseLayer",
    "Weight",
    "Weights",
    "foreign_hooks",
    "sparse_weights",
    "vector",
]

Weight = torch.Tensor | SparseWeight
Weights = Mapping[str, Weight]
"""The parameters of a layer by the dense module's names: matrices sparse, vectors as they are."""

# Hooks that only compute the weight, which is fixed here.
_WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)


class SparseLayer(nn.Module):
    """A layer that runs sparse: ``weights`` is all it needs beside the dense module's settings.

    A kind of layer is a subclass: it says which dense modules it replaces and how it is made of
    one, chosen and measured. It answers for the settings and the parameters of the dense module;
    its matrices are read-only stand-ins (:class:`billhook.inference.weights.stand_in.StandIn`).
    """

    @classmethod
    def dense_types(cls) -> tuple[type[nn.Module], ...]:
        """The kinds of modules it replaces."""
        raise NotImplementedError

    weight_parts: ClassVar[tuple[str, ...]] = ("weight", "bias")
    """The parameters that its kernels need, as attributes of the dense module."""

    @classmethod
    def obstacle(cls, _: nn.Module, /) -> str | None:
        """The reason why a module of a kind that it replaces has no sparse form, or None."""
        return None

    @classmethod
    def weight_names(cls, module: nn.Module) -> list[str]:
        """The parameters that its kernels need of this module; a layer may have no bias."""
        return [name for name in cls.weight_parts if attrgetter(name)(module) is not None]

    @classmethod
    def kernels_for(cls, _: nn.Module, /) -> tuple[str, ...]:
        """The kernels that a plan may choose for a module beside "dense"."""
        return ("sparse",)

    @classmethod
    def fastest(cls, _: nn.Module, __: Any, ___: int, /) -> Choice:
        """The sparse kernel that is fastest for a module, an input and an instruction set."""
        return Choice("sparse")

    @classmethod
    def make(cls, module: nn.Module, _: Choice, isa: int, weights: Weights | None) -> Self:
        """The sparse form of a module, with its own weights or with those given."""
        return cls(module, isa, weights)  # type: ignore[call-arg, arg-type]

    @classmethod
    def of(
        cls, module: nn.Module, choice: Choice, isa: int, weights: Weights | None = None
    ) -> Self:
        """The sparse form of a module, which answers for its settings."""
        layer = cls.make(module, choice, isa, weights)
        for name, value in _settings(module):
            if name not in vars(layer) and name not in layer.weights:
                setattr(layer, name, value)
        return layer

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = dict(weights)

    def positions(self, x: Any) -> int:
        """How often a call with this input uses each weight."""
        return int(x.shape[:-1].numel())

    @property
    def nbytes(self) -> int:
        """Bytes of its weights, in each layout in which a kernel has read them."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        weights = self.__dict__.get("weights", {})
        if name in weights:
            return _answer(weights[name])
        inner = {k.partition(".")[2]: _answer(w) for k, w in weights.items() if "." in k}
        if inner and any(k.startswith(f"{name}.") for k in weights):
            return SimpleNamespace(**inner)
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """The nonzeros of each matrix."""
        return ", ".join(
            f"{name}: {weight.nonzeros} of {'x'.join(map(str, weight.shape))}"
            for name, weight in self.weights.items()
            if not isinstance(weight, torch.Tensor)
        )

    def _save_to_state_dict(self, *_: Any, **__: Any) -> None:
        raise ConfigurationError(
            "a compiled layer is not in a state_dict: billhook.save(compiled, path) writes the "
            "whole program"
        )

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        raise ConfigurationError(
            "a compiled layer takes no state_dict: load it into the dense model and compile again"
        )


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The plain attributes of a module, and the parameters that it could have and has not."""
    for name, value in vars(module).items():
        parts = value if isinstance(value, tuple) else (value,)
        plain = all(part is None or isinstance(part, bool | int | float | str) for part in parts)
        if plain and not name.startswith("_") and name != "training":
            yield name, value
    own = torch_private.parameters_of(module)
    yield from ((name, None) for name, value in own.items() if value is None)


def _answer(weight: Weight) -> torch.Tensor:
    return weight if isinstance(weight, torch.Tensor) else StandIn(weight)


def foreign_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks beside those that only compute its weight."""
    hooks = [*torch_private.forward_hooks(module), *torch_private.forward_pre_hooks(module)]
    return any(not isinstance(hook, _WEIGHT_HOOKS) for hook in hooks)


def sparse_weights(module: nn.Module, names: list[str]) -> Weights:
    """The parameters of a dense layer, its matrices as their nonzeros."""
    for hook in torch_private.forward_pre_hooks(module):
        if isinstance(hook, _WEIGHT_HOOKS):
            hook(module, ())  # leaves the weight that the next forward would use
    tensors = {name: attrgetter(name)(module).detach() for name in names}
    return {name: sparse(t) if t.dim() > 1 else t.clone() for name, t in tensors.items()}


def vector(weights: Weights, name: str) -> torch.Tensor | None:
    """The bias of that name, None if the layer has none."""
    tensor = weights.get(name)
    assert tensor is None or isinstance(tensor, torch.Tensor)
    return tensor
