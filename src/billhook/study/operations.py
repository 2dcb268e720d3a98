"""Multiply-adds of a network, counted on one batch: how often each weight is used."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from billhook import torch_private
from billhook.tasks.task import Task

__all__ = ["operations", "uses"]


def uses(task: Task, model: nn.Module, *, training: bool) -> dict[str, float]:
    """How many multiply-adds each weight takes part in, an example, by the weight's name.

    Counted in the loss of one batch of ``task``, in convolutions, linear and recurrent layers and
    attention; looking up an embedding multiplies nothing, and norms and biases are left out.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    counts: dict[str, float] = defaultdict(float)
    was = model.training
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _counting(model, names, counts):
        torch.manual_seed(0)
        batch = next(iter(task.batches(0, 0, torch.device("cpu"))))
        task.loss(model.train(training), batch)
    model.train(was)
    examples = task.examples_per_step
    return {name: count / examples for name, count in counts.items()}


def operations(found: Mapping[str, float], sizes: Mapping[str, int]) -> int:
    """Multiply-adds an example: every weight's uses times its size, or its number of nonzeros."""
    return round(sum(each * sizes[name] for name, each in found.items()))


@contextlib.contextmanager
def _counting(
    model: nn.Module, names: Mapping[int, str], counts: dict[str, float]
) -> Iterator[None]:
    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        places = _places(module, inputs, output)
        for attribute, parameter in module.named_parameters(recurse=isinstance(module, _ATTENTION)):
            if places and "weight" in attribute and id(parameter) in names:
                counts[names[id(parameter)]] += places

    handles = [module.register_forward_hook(after) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_ATTENTION = nn.MultiheadAttention


def _places(module: nn.Module, inputs: Any, output: Any) -> int:
    """In how many places of a batch the module applies its weights; 0 if it multiplies by none."""
    given: Any = inputs[0] if inputs else None
    if isinstance(given, PackedSequence):
        given = given.data
    for kinds, tensor, features in (
        (torch_private.ConvTransposeNd, given, "in_channels"),
        (torch_private.ConvNd, output, "out_channels"),
        (nn.Linear, output, "out_features"),
        (nn.RNNBase | nn.RNNCellBase, given, "input_size"),
        (_ATTENTION, given, "embed_dim"),
    ):
        if isinstance(module, kinds):
            return int(tensor.numel() // getattr(module, features))
    return 0
