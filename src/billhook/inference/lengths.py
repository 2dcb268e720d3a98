"""Does a model take inputs of other lengths than the example's?"""

from functools import partial
from typing import Any

import torch
from torch import nn

from billhook.inference.graph import Graph
from billhook.torch_private import map_leaves

__all__ = ["takes_other_lengths"]

MAPS = 3  # dimensions of a sample of images, whose size stays


def takes_other_lengths(model: nn.Module, graph: Graph, inputs: tuple[Any, ...]) -> bool:
    """Whether the model runs when a dimension of its sequences is longer by one.

    All dimensions of that size grow together, in every input: tokens and their mask.
    """
    samples = [each.shape for each in graph.inputs if len(each.shape) < MAPS]
    sizes = {size for shape in samples for size in shape}
    return any(_runs(model, map_leaves(partial(_longer, size), inputs)) for size in sorted(sizes))


def _longer(size: int, value: Any) -> Any:
    """The value with its dimensions of this size longer by one, which repeats the first entry."""
    if not torch.is_tensor(value):
        return value
    for dim in range(value.dim()):
        if value.shape[dim] == size:
            value = torch.cat([value, value.narrow(dim, 0, 1)], dim)
    return value


def _runs(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    try:
        model(*inputs)
    except Exception:  # whatever a model raises that is given what it does not take
        return False
    return True
