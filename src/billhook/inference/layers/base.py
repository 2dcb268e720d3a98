"""What the modules that replace dense layers share: packed weights under the dense names."""

from collections.abc import Mapping
from operator import attrgetter

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference.weights.csr import SparseWeight, to_csr

__all__ = [
    "SparseLayer",
    "Weight",
    "Weights",
    "check_input",
    "sparse_weights",
    "vector",
    "weight_names",
]

Weight = torch.Tensor | SparseWeight
Weights = Mapping[str, Weight]
"""The parameters of a layer by the dense module's names: matrices sparse, vectors as they are."""


class SparseLayer(nn.Module):
    """A layer that runs sparse: ``weights`` is all it needs beside the dense module's settings."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = dict(weights)

    @property
    def nbytes(self) -> int:
        """Bytes of what its kernels read, as far as it has been packed."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The nonzeros of each matrix."""
        return ", ".join(
            f"{name}: {weight.csr.nnz} of {'x'.join(map(str, weight.shape))}"
            for name, weight in self.weights.items()
            if isinstance(weight, SparseWeight)
        )


def weight_names(module: nn.Module) -> list[str]:
    """The parameters that a layer's kernels need, as attributes of the module.

    >>> weight_names(nn.Linear(2, 2, bias=False))
    ['weight']
    """
    names = ["weight", "bias"]
    if isinstance(module, nn.RNNBase):
        names = list(module._flat_weights_names)
    elif isinstance(module, nn.MultiheadAttention):
        names = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    return [name for name in names if attrgetter(name)(module) is not None]


def sparse_weights(module: nn.Module) -> Weights:
    """The parameters of a dense layer, its matrices as their nonzeros."""
    tensors = {name: attrgetter(name)(module).detach() for name in weight_names(module)}
    return {
        name: SparseWeight(tuple(t.shape), to_csr(t)) if t.dim() > 1 else t.clone()
        for name, t in tensors.items()
    }


def vector(weights: Weights, name: str) -> torch.Tensor | None:
    """The bias of that name, None if the layer has none."""
    tensor = weights.get(name)
    assert tensor is None or isinstance(tensor, torch.Tensor)
    return tensor


def check_input(name: str, x: torch.Tensor) -> None:
    """Sparse layers take fp32 CPU tensors and build no graph for autograd."""
    if not isinstance(x, torch.Tensor):
        raise ConfigurationError(f"{name} takes a tensor, its input is a {type(x).__name__}")
    if x.is_nested:
        raise ConfigurationError(
            f"{name} takes no nested tensors, which a TransformerEncoder makes of padded batches "
            "unless it is built with enable_nested_tensor=False"
        )
    if not x.is_cpu or x.dtype != torch.float32 or x.layout != torch.strided:
        raise ConfigurationError(
            f"{name} was compiled for fp32 on the CPU, its input is {x.dtype} on {x.device} "
            f"({x.layout}): convert the input"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigurationError(
            f"{name} is compiled for inference and its input requires a gradient: "
            "call it under torch.no_grad()"
        )
