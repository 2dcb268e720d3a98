"""What compile chose for every layer, with the times it measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from billhook.inference.plan import Plan

__all__ = ["LayerReport", "Report"]


@dataclass(frozen=True)
class LayerReport:
    """One layer: the times are milliseconds for one call on the example input, None if not raced.

    ``positions`` counts how often one sample (in a network plan) or the example input uses each
    weight. ``sparse_ms`` is the fastest sparse kernel's time, ``chosen`` what runs, ``reason`` why.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    positions: int
    dense_ms: float | None
    sparse_ms: float | None
    chosen: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Layers in the order they run, and why the model as a whole runs as it does.

    ``dense_ms`` and ``compiled_ms`` time the whole model on the example input, interleaved; None
    where a plan was replayed.
    """

    mode: str
    reason: str
    isa: str
    threads: int
    dense_ms: float | None
    compiled_ms: float | None
    layers: tuple[LayerReport, ...]

    @classmethod
    def of(
        cls,
        plan: Plan,
        reason: str,
        layers: Sequence[LayerReport] = (),
        dense_ms: float | None = None,
        compiled_ms: float | None = None,
    ) -> "Report":
        """The report of a plan that runs here and now."""
        threads = torch.get_num_threads()
        return cls(plan.mode, reason, plan.isa, threads, dense_ms, compiled_ms, tuple(layers))

    def __str__(self) -> str:
        header = f"{'layer':<32} {'weight':<20} {'zeros':>6} {'dense':>9} {'sparse':>9}  runs"
        lines = [f"{self.mode}: {self.reason}", f"kernels {self.isa}, {self.threads} thread(s)"]
        if self.dense_ms is not None and self.compiled_ms is not None:
            ratio = self.dense_ms / self.compiled_ms
            lines.append(
                f"whole model: torch {self.dense_ms:.3f} ms, compiled {self.compiled_ms:.3f} ms, "
                f"{ratio:.2f} times as fast"
            )
        lines.append(header)
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            lines.append(
                f"{layer.name:<32} {shape:<20} {layer.sparsity:>6.1%} {_ms(layer.dense_ms):>9} "
                f"{_ms(layer.sparse_ms):>9}  {layer.chosen}: {layer.reason}"
            )
        return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"
