"""``billhook bench``: a model beside its dense forms, each layer beside the machine's limits."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from billhook.bench.peers import PEERS, peer, reason
from billhook.inference import isa
from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import compile
from billhook.inference.race import interleaved_times
from billhook.inference.report import LayerReport

__all__ = [
    "Limits",
    "Result",
    "bench",
    "instruction_set",
    "layer_table",
    "measure_limits",
    "processor_times",
]

Key = TypeVar("Key")
_SHORTEST = 2e-3  # seconds of processor time that each call's part of a round lasts at least


@dataclass(frozen=True)
class Result:
    """Milliseconds of each form of one model, in rounds in which they took turns, sorted.

    ``left_out`` has the reason for each form that did not run.
    """

    workload: str
    threads: int
    times: dict[str, list[float]]
    compiled: CompiledModel
    left_out: dict[str, str]

    def median(self, form: str) -> float:
        """The median round's milliseconds of one form."""
        return self.times[form][len(self.times[form]) // 2]

    def best(self, form: str) -> float:
        """The fastest round's: what is left of a time when nothing else disturbs."""
        return self.times[form][0]

    def ratios(self, form: str) -> tuple[float, float]:
        """How many times as fast as another form the compiled model is: medians, fastest rounds."""
        return self.median(form) / self.median("billhook"), self.best(form) / self.best("billhook")

    def to_dict(self) -> dict[str, Any]:
        """Median and fastest milliseconds of every form, for JSON."""
        times = {
            form: {"median_ms": self.median(form), "best_ms": self.best(form)}
            for form in self.times
        }
        return {
            "model": self.workload,
            "threads": self.threads,
            "times": times,
            "left_out": self.left_out,
        }

    def __str__(self) -> str:
        heading = f"{self.workload}, {self.threads} thread(s)"
        lines = [f"{heading:<40} {'median':>10} {'best':>10} {'ratio':>7} {'of best':>7}"]
        for form in self.times:
            ratio, of_best = self.ratios(form)
            lines.append(
                f"  {form:<38} {self.median(form):>7.3f} ms {self.best(form):>7.3f} ms "
                f"{ratio:>7.2f} {of_best:>7.2f}"
            )
        lines += [f"  {name:<38} left out: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def bench(
    workload: str,
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    threads: int = 1,
    rounds: int = 15,
    repeats: int = 1,
    peers: Sequence[str] = PEERS,
    extra: dict[str, Callable[[], object]] | None = None,
) -> Result:
    """Compiles a model, if it is not yet, and times it in turn with ``peers`` and ``extra`` calls.

    torch's thread count is as before afterwards.

    >>> result = bench("tiny", nn.Linear(8, 8).eval(), (torch.ones(1, 8),), peers=["eager"])
    >>> sorted(result.times)
    ['billhook', 'eager']
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left_out: dict[str, str] = {}
    try:
        with torch.no_grad():
            compiled = model if isinstance(model, CompiledModel) else compile(model, inputs)
            calls: dict[str, Callable[[], object]] = {"billhook": lambda: compiled(*inputs)}
            for name in peers:
                try:
                    call = peer(name, model, inputs, threads)
                    call()
                except Exception as error:  # of whatever library
                    left_out[name] = reason(error)
                else:
                    calls[name] = call
            calls |= extra or {}
            times = interleaved_times(calls, rounds, repeats)
    finally:
        torch.set_num_threads(before)
    return Result(workload, threads, times, compiled, left_out)


def processor_times(
    calls: Mapping[Key, Callable[[], object]], rounds: int = 25
) -> dict[Key, float]:
    """Median milliseconds of processor time of each call, all of which take turns.

    With one thread that is the time of a call on a core that nobody else uses, but for what others
    displace from the caches.
    """
    fastest = min((_seconds(call, time.process_time) for call in calls.values()), default=1.0)
    repeats = 1 + int(_SHORTEST / max(fastest, 1e-6))
    times = interleaved_times(calls, rounds, repeats, time.process_time)
    return {key: values[len(values) // 2] for key, values in times.items()}


def instruction_set() -> str:
    """The best one that this processor and this billhook have, such as "avx512vnni"."""
    return isa.best("int8")


@dataclass(frozen=True)
class Limits:
    """What this machine was measured to do on one thread: multiply-add rate and reading memory."""

    gflops: float
    gbytes: float

    def milliseconds(self, operations: int, nbytes: int) -> float:
        """The least time for that much arithmetic and that many bytes, whichever takes longer."""
        return max(operations / self.gflops, nbytes / self.gbytes) / 1e6


def measure_limits() -> Limits:
    """The best of a few dense products, and of sums over 8 MB; about half a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    a, flat = torch.rand(768, 768), torch.rand(1 << 21)
    try:
        product = min(_seconds(lambda: a @ a) for _ in range(15))
        reading = min(_seconds(flat.sum) for _ in range(50))
    finally:
        torch.set_num_threads(before)
    return Limits(2 * len(a) ** 3 / product / 1e9, 4 * len(flat) / reading / 1e9)


def _seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def layer_table(layers: Sequence[LayerReport], limits: Limits) -> str:
    """Each layer's times, its gain, and how far its sparse kernel is from the limits.

    A layer needs 2 * nonzeros * positions operations and reads at least 6 bytes per nonzero. The
    last line sums up what is gained where, if the dense times are known.
    """
    lines = [
        f"one thread: {limits.gflops:.0f} GFLOP/s dense, {limits.gbytes:.0f} GB/s",
        f"{'layer':<32} {'zeros':>6} {'dense':>9} {'sparse':>9} {'gain':>6} "
        f"{'limit':>9} {'of it':>6}  runs",
    ]
    for layer in layers:
        if layer.sparse_ms is None:
            lines.append(f"{layer.name:<32} {layer.sparsity:>6.1%} {layer.reason}")
            continue
        weights = torch.Size(layer.shape).numel()
        nonzeros = round((1 - layer.sparsity) * weights)
        limit = limits.milliseconds(2 * nonzeros * layer.positions, 6 * nonzeros)
        dense = gain = "-"
        if layer.dense_ms is not None:
            dense, gain = f"{layer.dense_ms:.3f}", f"{layer.dense_ms / layer.sparse_ms:.2f}"
        lines.append(
            f"{layer.name:<32} {layer.sparsity:>6.1%} {dense:>9} {layer.sparse_ms:>9.3f} "
            f"{gain:>6} {limit:>9.3f} {limit / layer.sparse_ms:>6.0%}  {layer.chosen}"
        )
    return "\n".join([*lines, *_summary(layers)])


def _summary(layers: Sequence[LayerReport]) -> list[str]:
    """What the layers that run sparse gain, and how much time is in those that do not."""
    timed = [
        (layer.chosen == "dense", layer.dense_ms, layer.sparse_ms)
        for layer in layers
        if layer.dense_ms is not None and layer.sparse_ms is not None
    ]
    if not timed:
        return []
    stay = [dense for is_dense, dense, _ in timed if is_dense]
    before = sum(dense for is_dense, dense, _ in timed if not is_dense)
    after = sum(sparse for is_dense, _, sparse in timed if not is_dense)
    return [
        f"{len(timed) - len(stay)} layers run sparse: {before:.3f} ms dense, {after:.3f} ms so; "
        f"{len(stay)} stay dense: {sum(stay):.3f} ms"
    ]
