"""``billhook bench``: a model beside its dense forms, and each layer beside the machine's limits."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from billhook.inference.compiler import CompiledModel, compile
from billhook.inference.peers import PEERS, missing, peer
from billhook.inference.race import median_times

__all__ = ["Limits", "Result", "bench", "layer_table", "measure_limits", "with_steady_memory"]

# Without these the C library returns every large tensor's memory to the system and gets it back
# page by page: whoever allocates less looks faster than it is.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}


def with_steady_memory() -> None:
    """Starts this process anew with an allocator that keeps its memory, if it does not yet."""
    if any(os.environ.get(name) != value for name, value in _MALLOC.items()):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **_MALLOC})


@dataclass(frozen=True)
class Result:
    """Median milliseconds of each form of one model, of rounds in which they took turns."""

    workload: str
    threads: int
    times: dict[str, float]
    compiled: CompiledModel
    absent: tuple[str, ...]

    def ratio(self, other: str) -> float:
        """How many times as fast as another form the compiled model is."""
        return self.times[other] / self.times["billhook"]

    def __str__(self) -> str:
        others = ", ".join(
            f"{name} {ms:.3f} ms ({self.ratio(name):.2f}x)"
            for name, ms in self.times.items()
            if name != "billhook"
        )
        absent = f"; not installed: {', '.join(self.absent)}" if self.absent else ""
        ours = f"billhook {self.times['billhook']:.3f} ms"
        return f"{self.workload}, {self.threads} thread(s): {ours}; {others}{absent}"


def bench(
    workload: str,
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    threads: int = 1,
    rounds: int = 15,
    peers: Sequence[str] = PEERS,
    extra: dict[str, Callable[[], object]] | None = None,
) -> Result:
    """Compiles a model and times it in turn with ``peers`` and the ``extra`` calls.

    torch's thread count is as before afterwards.

    >>> result = bench("tiny", nn.Linear(8, 8).eval(), (torch.ones(1, 8),), peers=["eager"])
    >>> sorted(result.times)
    ['billhook', 'eager']
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    absent = tuple(name for name in peers if missing(name))
    try:
        with torch.no_grad():
            compiled = compile(model, inputs)
            calls: dict[str, Callable[[], object]] = {"billhook": lambda: compiled(*inputs)}
            for name in peers:
                if name not in absent:
                    calls[name] = peer(name, model, inputs, threads)
            calls |= extra or {}
            times = median_times(calls, rounds)
    finally:
        torch.set_num_threads(before)
    return Result(workload, threads, times, compiled, absent)


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


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def layer_table(compiled: CompiledModel, limits: Limits) -> str:
    """Each layer's times, its gain, and how far its sparse kernel is from the limits.

    A layer needs 2 * nonzeros * positions operations and reads 6 bytes a nonzero at least.
    """
    lines = [
        f"one thread: {limits.gflops:.0f} GFLOP/s dense, {limits.gbytes:.0f} GB/s",
        f"{'layer':<32} {'zeros':>6} {'dense':>9} {'sparse':>9} {'gain':>6} {'limit':>9}  runs",
    ]
    for layer in compiled.report().layers:
        if layer.dense_ms is None or layer.sparse_ms is None:
            lines.append(f"{layer.name:<32} {layer.sparsity:>6.1%} {layer.reason}")
            continue
        weights = torch.Size(layer.shape).numel()
        nonzeros = round((1 - layer.sparsity) * weights)
        limit = limits.milliseconds(2 * nonzeros * layer.positions, 6 * nonzeros)
        gain = layer.dense_ms / layer.sparse_ms
        lines.append(
            f"{layer.name:<32} {layer.sparsity:>6.1%} {layer.dense_ms:>9.3f} "
            f"{layer.sparse_ms:>9.3f} {gain:>6.2f} {limit:>9.3f}  {layer.chosen}"
        )
    return "\n".join(lines)
