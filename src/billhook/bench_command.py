"""The body of ``billhook bench``: a model, its weights from a file or random, or a program."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import billhook
from billhook.errors import BillhookError, ConfigurationError
from billhook.inference.bench import bench, layer_table, measure_limits
from billhook.inference.compiled import NetworkModule
from billhook.inference.loading import load_compiled
from billhook.inference.network_race import time_layers
from billhook.inference.peers import PEERS
from billhook.named_model import build_model

__all__ = ["run"]


def run(
    target: str,
    shape: str | None = None,
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
        target: A function of billhook.models or ``module:function``, arguments in parentheses; or
            a program that ``billhook.save(compiled, path)`` wrote, which is measured alone.
        shape: The input's sides, as in "1,3,224,224"; a program has its own, with a batch of one.
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
    if Path(target).is_file():
        yield from _program(Path(target), shape, threads, rounds)
        return
    if shape is None:
        raise ConfigurationError(f"{target} is no file, so its input's shape is needed: --input")
    model = _model(target, weights, sparsity)
    inputs = (_input(shape, vocabulary),)
    _check_input(target, model, inputs[0])
    # Recurrent models are measured beside eager torch alone, which always runs them.
    usable = peers if vocabulary is None else ("eager",)
    result = bench(target, model, inputs, threads=threads, rounds=rounds, peers=usable)
    yield str(result)
    yield f"{result.compiled.plan.mode}: {result.compiled.report().reason}"
    yield layer_table(result.compiled.report().layers, measure_limits())


def _program(path: Path, shape: str | None, threads: int, rounds: int) -> Iterator[str]:
    try:
        compiled = load_compiled(path)
    except BillhookError as error:
        raise ConfigurationError(
            f"{error}. To measure weights, give their model and input too: "
            f"billhook bench MODEL --weights {path} --input 1,3,224,224"
        ) from error
    assert isinstance(compiled.program, NetworkModule)  # the others need a model
    network = compiled.program.network
    x = torch.rand(1, *network.input_shape) if shape is None else _input(shape, None)
    yield str(bench(path.name, compiled, (x,), threads=threads, rounds=rounds, peers=()))
    yield layer_table(time_layers(network), measure_limits())


def _model(target: str, weights: Path | None, sparsity: float | None) -> nn.Module:
    if (weights is None) == (sparsity is None):
        raise ConfigurationError("give either a file of weights or a sparsity for random zeros")
    model = build_model(target, device="cpu").eval()
    if weights is not None:
        _fill(model, billhook.load(weights), f"{weights} does not fit {target}")
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


def _fill(model: nn.Module, weights: dict[str, torch.Tensor], misfit: str) -> None:
    wanted = model.state_dict()
    for name in [*wanted, *weights]:
        if name not in weights or name not in wanted:
            raise ConfigurationError(
                f"{misfit}: {name!r} is only in the {'file' if name in weights else 'model'}"
            )
        if weights[name].shape != wanted[name].shape:
            raise ConfigurationError(
                f"{misfit}: {name!r} is {list(weights[name].shape)} in the file and "
                f"{list(wanted[name].shape)} in the model; give the model's arguments in "
                "parentheses, as in 'mobilenet_v1(width=0.5)'"
            )
    model.load_state_dict(weights)


def _check_input(target: str, model: nn.Module, x: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:  # whatever the model raises
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(
            f"{target} fails on an input of {list(x.shape)}, {x.dtype}: {cause} (--input gives the "
            "sides, --vocabulary makes it integers; a model of several inputs needs a wrapper)"
        ) from error


def _input(shape: str, vocabulary: int | None) -> torch.Tensor:
    try:
        sides = [int(side) for side in shape.split(",")]
    except ValueError as error:
        raise ConfigurationError(
            f"the input's shape is {shape!r}: give its sides, as in 1,3,224,224"
        ) from error
    return torch.rand(sides) if vocabulary is None else torch.randint(vocabulary, sides)
