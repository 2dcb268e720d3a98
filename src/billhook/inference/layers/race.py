"""Races the layers of a model that is not one program: each by itself, dense among its forms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference.layers.base import SparseLayer
from billhook.inference.layers.kinds import (
    candidates,
    dense_only,
    kind_of,
    make_sparse,
    obstacle,
)
from billhook.inference.plan import Choice
from billhook.inference.race import interleaved_times, race, winner
from billhook.inference.report import LayerReport
from billhook.inference.weights.csr import SparseWeight
from billhook.torch_private import is_transformed

__all__ = ["Call", "choose_modules", "recorded_calls", "time_modules"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments."""


@dataclass
class _Layer:
    """A layer that could be replaced, and one recorded call of it."""

    name: str
    module: nn.Module
    call: Call | None

    @property
    def input(self) -> Any:
        """The first argument of the recorded call."""
        assert self.call is not None
        return next(iter((*self.call[0], *self.call[1].values())))


def choose_modules(
    model: nn.Module, run: Callable[[nn.Module], object], isa: int
) -> tuple[dict[str, Choice], list[LayerReport]]:
    """Races every layer on the input it sees in ``run(model)``: its choice and its times.

    The reports name every module with weights, also those that no kernel knows.
    """
    layers = dict(candidates(model))
    calls = recorded_calls(layers, lambda: run(model))
    choices, reports = {}, {}
    for name, module in layers.items():
        choices[name], reports[name] = _choose(_Layer(name, module, calls.get(name)), isa)
    for name, module, why in dense_only(model):
        reports[name] = _dense_report(name, module, why)
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return choices, sorted(reports.values(), key=lambda report: order[report.name])


def recorded_calls(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Call]:
    """The last call of each layer in a run."""
    calls: dict[str, Call] = {}

    def record(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[name] = args, kwargs

    hooks = [
        layer.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _report(
    name: str, module: nn.Module, shape: torch.Size, nonzeros: float, positions: int, **rest: Any
) -> LayerReport:
    return LayerReport(
        name=name,
        kind=type(module).__name__,
        shape=tuple(shape),
        sparsity=1 - nonzeros,
        positions=positions,
        **rest,
    )


def _dense_report(name: str, module: nn.Module, why: str) -> LayerReport:
    """Of a module that stays dense without a race; ``parameters`` are all that it owns."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    total = sum(p.numel() for p in weights)
    share = sum(int(p.count_nonzero()) for p in weights) / max(total, 1)
    unknown = {"dense_ms": None, "sparse_ms": None, "chosen": "dense", "reason": why}
    return _report(name, module, weights[0].shape, share, 0, **unknown)


def _choose(layer: _Layer, isa: int) -> tuple[Choice, LayerReport]:
    why = obstacle(layer.module)
    if why is None and layer.call is None:
        why = "the example input does not reach it"
    if why is None and getattr(layer.input, "is_nested", False):
        why = "it is given nested tensors; build its encoder with enable_nested_tensor=False"
    if why is None and isinstance(layer.input, torch.Tensor) and is_transformed(layer.input):
        why = "it is called under a transform of torch.func, which cannot see into native kernels"
    if why is not None:
        return Choice("dense"), _dense_report(layer.name, layer.module, why)
    args, kwargs = layer.call or ((), {})
    sparse = kind_of(layer.module).fastest(layer.module, layer.input, isa)
    replaced = make_sparse(layer.module, sparse, isa)
    forms = {sparse: replaced, Choice("dense"): layer.module}
    try:
        times = race({choice: partial(form, *args, **kwargs) for choice, form in forms.items()})
    except ConfigurationError as error:
        why = f"its sparse form does not take what it is given: {error}"
        return Choice("dense"), _dense_report(layer.name, layer.module, why)
    best, dense, ours = winner(times, Choice("dense")), times[Choice("dense")], times[sparse]
    why = f"{dense / ours:.1f} times as fast as torch"
    if best.kernel == "dense":
        why = f"dense is as fast here ({dense:.3f} against {ours:.3f} ms)"
    times_and_choice = {"dense_ms": dense, "sparse_ms": ours, "chosen": best.kernel, "reason": why}
    return best, _sparse_report(layer, replaced, **times_and_choice)


def _sparse_report(layer: _Layer, sparse: SparseLayer, **measured: Any) -> LayerReport:
    matrices = [w for w in sparse.weights.values() if isinstance(w, SparseWeight)]
    total = sum(torch.Size(w.shape).numel() for w in matrices)
    return _report(
        *(layer.name, layer.module, torch.Size(matrices[0].shape)),
        sum(w.nonzeros for w in matrices) / max(total, 1),
        sparse.positions(layer.input),
        **measured,
    )


def time_modules(
    program: nn.Module, run: Callable[[], object], rounds: int = 20
) -> list[LayerReport]:
    """Each sparse layer of a program by itself, on the input it sees in ``run()``."""
    sparse = {name: m for name, m in program.named_modules() if isinstance(m, SparseLayer)}
    calls = recorded_calls(sparse, run)
    sparse = {name: module for name, module in sparse.items() if name in calls}
    bound = {name: partial(m, *calls[name][0], **calls[name][1]) for name, m in sparse.items()}
    times = interleaved_times(bound, rounds)
    unknown = {"dense_ms": None, "chosen": "sparse", "reason": ""}
    return [
        _sparse_report(_Layer(name, m, calls[name]), m, sparse_ms=times[name][0], **unknown)
        for name, m in sparse.items()
    ]
