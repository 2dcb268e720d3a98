"""Races the kernels of a network's layers where they will run: in the network's own workspace."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from billhook.inference import kernels
from billhook.inference.graph import Graph, Layer
from billhook.inference.graph.soundness import after
from billhook.inference.isa import lanes
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice
from billhook.inference.race import interleaved_times, race, winner
from billhook.inference.report import LayerReport
from billhook.inference.weights.csr import SparseWeight

__all__ = ["race_network", "time_layers"]

# The widest tiles that are tried, in vectors of eight pixels, by lanes of the instruction set.
TILES = {8: (8, 6, 4), 16: (16, 12, 8, 4)}
TILED = ("spmm", "spmm_packed")  # kernels that take a width of tiles
DENSE = Choice("dense", 6)  # tiles of 48 pixels: what the registers hold of eight rows
Candidates = dict[Any, Callable[[], object]]


def race_network(
    graph: Graph, inputs: Sequence[Any], isa: int
) -> tuple[dict[str, Choice], list[LayerReport]]:
    """The fastest kernel for each layer on one sample, and the times."""
    start = {op.name: Choice(_first_sparse(op)) for op in graph.ops if isinstance(op, Layer)}
    network = Network(graph, start, isa)
    network(*inputs)  # leaves every value in the pooled workspace
    racer = _Racer(network, inputs)
    for index, op in enumerate(graph.ops):
        if isinstance(op, Layer):
            racer.race(index, op)
    racer.fuse()
    return racer.choices, list(racer.reports.values())


def time_layers(network: Network, rounds: int = 20) -> list[LayerReport]:
    """Each layer of a program by itself, as it runs there; there is no dense form to compare."""
    inputs = network.graph.example()
    network(*inputs)
    racer = _Racer(network, inputs)
    users = network.lowering.placed.users
    layers = {
        index: (op, network.choices[op.name])
        for index, op in enumerate(network.ops)
        if isinstance(op, Layer)
    }
    calls = {
        index: racer.runs(index, choice, network.lowering.filled_by(index))
        for index, (_, choice) in layers.items()
        if choice.kernel != "fused"
    }
    times = {index: times[0] for index, times in interleaved_times(calls, rounds).items()}
    reports = []
    for index, (op, choice) in layers.items():
        spent, reason = times.get(index), ""
        if spent is None:
            reason = f"runs with {network.ops[users[index][0]].name}"
        elif choice.kernel == "dense":
            spent, reason = None, f"dense, {spent:.3f} ms"
        reports.append(
            _layer_report(
                op, dense_ms=None, sparse_ms=spent, chosen=_describe(choice), reason=reason
            )
        )
    return reports


def _layer_report(op: Layer, **measured: Any) -> LayerReport:
    weight = op.weight
    nonzeros = weight.nonzeros if isinstance(weight, SparseWeight) else int(weight.count_nonzero())
    return LayerReport(
        name=op.name,
        kind=op.kind,
        shape=tuple(weight.shape),
        sparsity=1 - nonzeros / max(torch.Size(weight.shape).numel(), 1),
        positions=op.positions,
        **measured,
    )


def _first_sparse(op: Layer) -> str:
    """The first sparse kernel that may run a layer, or "dense"."""
    return next((k for k in op.kernels_for() if k != "dense"), "dense")


def even_tiles(vectors: int, isa: int) -> list[int]:
    """The widths of tiles that share so many vectors of eight pixels evenly.

    AVX-512's own vectors are two of them, so its tiles are even.

    >>> even_tiles(25, 1), even_tiles(25, 2)
    ([4, 5, 7], [4, 8, 10, 14])
    """
    unit = lanes(isa) // kernels.LANES
    units = -(-vectors // unit)
    most = [t // unit for t in TILES[lanes(isa)]]
    return sorted({unit * -(-units // -(-units // t)) for t in most})


class _Racer:
    def __init__(self, network: Network, inputs: Sequence[Any]) -> None:
        self.network, self.ops = network, network.ops
        self.workspace = network.take()
        self.inputs = [x[:1].contiguous() for x in network.samples(inputs)]
        self.outputs = [torch.empty(1, *output.shape) for output in network.outputs]
        self.choices: dict[str, Choice] = {}
        self.reports: dict[str, LayerReport] = {}
        self.times: dict[str, float] = {}

    def runs(
        self, index: int, choice: Choice, depthwise: int | None = None
    ) -> Callable[[], object]:
        """The layer as the network would run it."""
        steps = kernels.struct_array(self.network.lowering.steps_of_layer(index, choice, depthwise))
        return lambda: self.network.run_native(steps, self.workspace, self.inputs, self.outputs)

    def sparse_choices(self, index: int, op: Layer) -> list[Choice]:
        """What may run a layer without its zeros: each kernel, with the tiles that suit its
        result."""
        choices = []
        for kernel in op.kernels_for():
            if kernel in TILED:
                layout = self.network.lowering.placed.sites[index].layout
                assert layout is not None
                tiles = even_tiles(layout.pixels_rounded // kernels.LANES, self.network.isa)
                choices += [Choice(kernel, tile) for tile in tiles]
            elif kernel != "dense":
                choices.append(Choice(kernel))
        return choices

    def race(self, index: int, op: Layer) -> None:
        """Chooses the kernel of one layer."""
        sparse = self.sparse_choices(index, op)
        candidates: Candidates = {choice: self.runs(index, choice) for choice in [*sparse, DENSE]}
        candidates["torch"] = op.dense_form(self.network.lowering.placed.sites[index].shapes[0])
        times = race(candidates)
        alone = times.pop("torch")
        best = winner(times, DENSE)
        self.choices[op.name], self.times[op.name] = best, times[best]
        fastest = min((times[c] for c in sparse), default=None)
        self.reports[op.name] = _layer_report(
            op,
            dense_ms=alone,
            sparse_ms=fastest,
            chosen=_describe(best),
            reason=_reason(best, alone, times, fastest),
        )

    def fuse(self) -> None:
        """Lets depthwise convolutions fill the panels of the 1x1 after them, where faster."""
        for first, op in enumerate(self.ops):
            follower = after(self.ops, first)
            if not isinstance(op, Layer) or not isinstance(follower, Layer):
                continue
            alone = (self.choices[op.name].kernel, self.choices[follower.name].kernel)
            if "fused" not in op.kernels_for(follower) or "dense" in alone:
                continue
            second = self.network.lowering.placed.users[first][0]
            options: Candidates = {
                Choice("spmm_packed", tile): self.runs(second, Choice("spmm_packed", tile), first)
                for tile in TILES[lanes(self.network.isa)]
            }
            options["apart"] = self._pair(first, second)
            times = race(options)
            best = min(times, key=lambda option: times[option])
            if best == "apart":
                continue
            saved = f"{times['apart']:.3f} ms apart, {times[best]:.3f} ms together"
            self.choices[op.name], self.choices[follower.name] = Choice("fused"), best
            for layer, chosen in ((op, "fused into the 1x1 after it"), (follower, _describe(best))):
                old = self.reports[layer.name]
                self.reports[layer.name] = LayerReport(
                    **{**old.__dict__, "chosen": chosen, "reason": saved}
                )

    def _pair(self, first: int, second: int) -> Callable[[], object]:
        calls = [self.runs(i, self.choices[self.ops[i].name]) for i in (first, second)]
        return lambda: [call() for call in calls]


def _describe(choice: Choice) -> str:
    if choice.kernel in ("dense", "sparse", "fused", "depthwise"):
        return choice.kernel
    return f"{choice.kernel}, {choice.vectors * 8} pixels per tile"


def _reason(best: Choice, alone: float, times: dict[Any, float], fastest: float | None) -> str:
    if fastest is None:
        return "no sparse kernel for this layer"
    dense = times[DENSE]
    if best.kernel == "dense":
        return f"dense is as fast here ({dense:.3f} against {fastest:.3f} ms)"
    return f"{alone / times[best]:.1f} times as fast as torch"
