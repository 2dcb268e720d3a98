"""Small models of every common kind, with inputs: whole programs must run each of them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import billhook
from billhook.inference import isa
from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import _network
from billhook.inference.graph import Layer, capture_graph
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice, Plan
from billhook.inference.report import CompileReport
from billhook.inference.verification import variations

from . import images, sequences, transformers

__all__ = ["ZOO", "choices_of", "saved", "small"]

ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    **{
        name: (make, lambda shape=shape: (torch.rand(1, *shape),))  # type: ignore[misc]
        for name, (make, shape) in images.MODELS.items()
    },
    **sequences.MODELS,
    **transformers.MODELS,
}


def small(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model with 60% zeros, and its inputs."""
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) < 0.4)
    return model, inputs()


def choices_of(graph: Any, rng: random.Random, dense: bool = True) -> dict[str, Choice]:
    """Any kernel that may run each layer."""
    return {
        op.name: Choice(
            rng.choice([k for k in op.kernels_for() if dense or k != "dense"]), rng.randint(1, 16)
        )
        for op in graph.ops
        if isinstance(op, Layer)
    }


def saved(
    name: str, path: Path, instructions: str, dense: bool = True, encoding: str = "auto"
) -> tuple[Network, list[tuple[Any, ...]]]:
    """Writes a model's program, of layers run by any kernels; returns it, with a list of outputs,
    and inputs that it takes: the last ones of another number of samples where it takes those."""
    model, inputs = small(name)
    with torch.no_grad():
        graph, _ = capture_graph(model, inputs)
    choices = choices_of(graph, random.Random(name), dense)
    network = _network((graph, list), choices, isa.index_of(instructions, "fp32"))
    plan = Plan("network", instructions, choices)
    program = CompiledModel(network, plan, CompileReport.of(plan, ""), {})
    billhook.save(program, path, encoding=encoding)
    batches = [x for _, x in variations(inputs) if network.takes(*x)]
    assert batches
    return network, batches
