"""The body of ``billhook bench``: a named model, its weights from a file or pruned at random."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.inference.bench import bench, layer_table, measure_limits
from billhook.inference.peers import PEERS
from billhook.named_model import build_model

__all__ = ["run"]


def run(
    target: str,
    shape: str,
    *,
    weights: Path | None = None,
    sparsity: float | None = None,
    vocabulary: int | None = None,
    threads: int = 1,
    rounds: int = 15,
    peers: tuple[str, ...] = PEERS,
) -> Iterator[str]:
    """The lines to print: the model beside its peers, then every layer beside the limits.

    Args:
        target: A function of billhook.models or ``module:function``, arguments in parentheses.
        shape: The input's sides, as in "1,3,224,224".
        weights: A file that ``billhook.save`` wrote, or any safetensors file, of this model.
        sparsity: Without a file: the share of every weight matrix to zero at random, 0 to 1.
        vocabulary: The input holds integers below this; without it, floats in [0, 1).
        threads: For every form of the model.
        rounds: In each, all forms take turns.
        peers: Which of ``peers.PEERS`` to measure.

    >>> lines = run("torch.nn:Linear(in_features=64, out_features=64)", "1,64", sparsity=0.9,
    ...             peers=("eager",), rounds=3)
    >>> "billhook" in next(lines)
    True
    """
    model = _model(target, weights, sparsity)
    inputs = (_input(shape, vocabulary),)
    # Recurrent models are measured beside eager torch alone, which always runs them.
    usable = peers if vocabulary is None else ("eager",)
    result = bench(target, model, inputs, threads=threads, rounds=rounds, peers=usable)
    yield str(result)
    yield f"{result.compiled.plan.mode}: {result.compiled.report().reason}"
    yield layer_table(result.compiled, measure_limits())


def _model(target: str, weights: Path | None, sparsity: float | None) -> nn.Module:
    if (weights is None) == (sparsity is None):
        raise ConfigurationError("give either a file of weights or a sparsity for random zeros")
    model = build_model(target, device="cpu").eval()
    if weights is not None:
        model.load_state_dict(billhook.load(weights))
        return model
    assert sparsity is not None
    if not 0 <= sparsity <= 1:
        raise ConfigurationError(f"the sparsity is {sparsity}: it is a share between 0 and 1")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
    return model


def _input(shape: str, vocabulary: int | None) -> torch.Tensor:
    try:
        sides = [int(side) for side in shape.split(",")]
    except ValueError as error:
        raise ConfigurationError(
            f"the input's shape is {shape!r}: give its sides, as in 1,3,224,224"
        ) from error
    return torch.rand(sides) if vocabulary is None else torch.randint(vocabulary, sides)
