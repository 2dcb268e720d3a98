"""The body of ``billhook bench``: a model, its weights from a file or random, or a program."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import billhook
from billhook.bench.measure import Limits, Result, bench, layer_table, measure_limits
from billhook.bench.peers import PEERS
from billhook.errors import ConfigurationError
from billhook.inference.layers.race import time_modules
from billhook.inference.loading import is_program, load_compiled
from billhook.inference.network.network import Network
from billhook.inference.network.race import time_layers
from billhook.inference.report import LayerReport
from billhook.named_model import build_model

__all__ = ["Layers", "Mode", "check_input", "example_input", "fill", "run"]


@dataclass(frozen=True)
class Mode:
    """How a compiled model runs as a whole, and why."""

    mode: str
    reason: str

    def __str__(self) -> str:
        return f"{self.mode}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Layers:
    """Each layer's times beside the limits of the machine."""

    layers: Sequence[LayerReport]
    limits: Limits

    def __str__(self) -> str:
        return layer_table(self.layers, self.limits)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON; times are milliseconds, None where a layer was not timed."""
        return {"limits": asdict(self.limits), "layers": [asdict(each) for each in self.layers]}


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
) -> Iterator[Result | Mode | Layers]:
    """What to print: the model beside its peers, then every layer beside the limits.

    Args:
        target: A function of billhook.models or ``module:function``, arguments in parentheses; an
            ONNX file, which has its own weights; or a program that ``billhook.save(compiled,
            path)`` wrote, which is measured alone.
        shape: The input's sides, as in "1,3,224,224"; a program has its own, with a batch of one.
        weights: A file of this model's weights that ``billhook.save`` wrote, or any safetensors
            file; or of this model compiled, which is then measured alone.
        sparsity: Without a file: the share of every weight matrix to zero at random, 0 to 1.
        vocabulary: The input holds integers below this; without it, floats in [0, 1).
        threads: For every form of the model.
        rounds: In each, all forms take turns.
        peers: Which of ``peers.PEERS`` to measure.

    >>> lines = run("torch.nn:Linear(in_features=64, out_features=64)", "1,64", sparsity=0.9,
    ...             peers=("eager",), rounds=3)
    >>> "billhook" in str(next(lines))
    True
    """
    is_onnx = Path(target).suffix == ".onnx"
    if Path(target).is_file() and not is_onnx:
        yield from _program(Path(target), None, shape, vocabulary, threads=threads, rounds=rounds)
        return
    if shape is None:
        raise ConfigurationError(f"the shape of {target}'s input is needed: --input")
    if weights is not None and is_program(weights):
        yield from _program(weights, target, shape, vocabulary, threads=threads, rounds=rounds)
        return
    model = _onnx(target, weights, sparsity) if is_onnx else _model(target, weights, sparsity)
    inputs = (example_input(shape, vocabulary),)
    check_input(target, model, inputs[0])
    result = bench(target, model, inputs, threads=threads, rounds=rounds, peers=peers)
    yield result
    yield Mode(result.compiled.plan.mode, result.compiled.report().reason)
    yield Layers(result.compiled.report().layers, measure_limits())


def _program(
    path: Path,
    target: str | None,
    shape: str | None,
    vocabulary: int | None,
    *,
    threads: int,
    rounds: int,
) -> Iterator[Result | Layers]:
    if not is_program(path):
        raise ConfigurationError(
            f"{path} holds weights, not a compiled program: give their model and its input too, "
            f"as in billhook bench 'mobilenet_v1(width=0.5)' --weights {path} --input 1,3,224,224"
        )
    compiled = load_compiled(path, None if target is None else build_model(target))
    program = compiled.program
    if isinstance(program, Network):
        given = program.graph.example()
        inputs = tuple(given if shape is None else [example_input(shape, None)])
    elif shape is None:
        raise ConfigurationError(f"{path} does not know the shape of its input: give --input")
    else:
        inputs = (example_input(shape, vocabulary),)
    check_input(path.name, compiled, *inputs)
    yield bench(path.name, compiled, inputs, threads=threads, rounds=rounds, peers=())
    layers = (
        time_layers(program)
        if isinstance(program, Network)
        else time_modules(program, lambda: compiled(*inputs))
    )
    yield Layers(layers, measure_limits())


def _onnx(target: str, weights: Path | None, sparsity: float | None) -> nn.Module:
    from billhook.onnx import load_onnx

    if weights is not None or sparsity is not None:
        raise ConfigurationError(
            f"{target} has its own weights: leave out --weights and --sparsity"
        )
    return load_onnx(target)


def _model(target: str, weights: Path | None, sparsity: float | None) -> nn.Module:
    if (weights is None) == (sparsity is None):
        raise ConfigurationError("give either a file of weights or a sparsity for random zeros")
    model = build_model(target, device="cpu").eval()
    if weights is not None:
        fill(model, billhook.load(weights), f"{weights} does not fit {target}")
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


def fill(model: nn.Module, weights: dict[str, torch.Tensor], misfit: str) -> None:
    """Put weights into a model of exactly these names and shapes.

    Raises:
        ConfigurationError: they do not fit; the message begins with ``misfit``.
    """
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


def check_input(target: str, model: nn.Module, *inputs: torch.Tensor) -> None:
    """Run the model once.

    Raises:
        ConfigurationError: it fails.
    """
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:  # whatever the model raises
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(
            f"{target} fails on an input of {list(inputs[0].shape)}, {inputs[0].dtype}: {cause} "
            "(--input gives the sides, --vocabulary makes it integers; a model of several inputs "
            "needs a wrapper)"
        ) from error


def example_input(shape: str, vocabulary: int | None) -> torch.Tensor:
    """Random numbers of a shape such as "1,3,224,224", or integers below ``vocabulary``.

    Raises:
        ConfigurationError: that is not a shape.
    """
    try:
        sides = [int(side) for side in shape.split(",")]
    except ValueError as error:
        raise ConfigurationError(
            f"the input's shape is {shape!r}: give its sides, as in 1,3,224,224"
        ) from error
    return torch.rand(sides) if vocabulary is None else torch.randint(vocabulary, sides)
