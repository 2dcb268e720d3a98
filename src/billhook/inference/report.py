"""The report of compile: its choice for every layer, with the times it measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from billhook.inference.plan import Plan

__all__ = ["Accuracy", "CompileReport", "LayerReport"]


@dataclass(frozen=True)
class LayerReport:
    """One layer: the times are milliseconds for one call on the example input, None if not raced.

    ``positions`` counts how often one sample (in a network plan) or the example input uses each
    weight. ``sparse_ms`` is the fastest sparse kernel's time, ``chosen`` what runs, ``reason`` why.
    ``precision`` is "fp32" or "int8"; ``pattern`` is that of the zeros of a layer in 8 bits:
    "dense", "unstructured", or blocks such as "4x4".
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
    precision: str = "fp32"
    pattern: str = ""


@dataclass(frozen=True)
class Accuracy:
    """What 8 bits change, on calibration batches that were held out from the ranges.

    ``relative_error`` of the outputs in the 2-norm, and ``agreement``, the share of ``positions``
    whose largest output stays the largest. ``held_out``: whether any batches could be held out.
    """

    relative_error: float
    agreement: float
    positions: int
    held_out: bool

    def __str__(self) -> str:
        where = "held-out calibration batches" if self.held_out else "the one calibration batch"
        return (
            f"8 bits: outputs change by {self.relative_error:.2%} in the 2-norm and the largest "
            f"stays the largest in {self.agreement:.2%} of {self.positions}, on {where}"
        )


@dataclass(frozen=True)
class CompileReport:
    """Layers in the order they run, and why the model as a whole runs as it does.

    ``dense_ms`` and ``compiled_ms`` time the whole model on the example input, interleaved; None
    where a plan was replayed. ``accuracy`` is what 8 bits change, None in fp32.
    """

    mode: str
    reason: str
    isa: str
    threads: int
    dense_ms: float | None
    compiled_ms: float | None
    layers: tuple[LayerReport, ...]
    accuracy: Accuracy | None = None

    @classmethod
    def of(
        cls,
        plan: Plan,
        reason: str,
        layers: Sequence[LayerReport] = (),
        dense_ms: float | None = None,
        compiled_ms: float | None = None,
    ) -> "CompileReport":
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
        if self.accuracy is not None:
            lines.append(str(self.accuracy))
        lines.append(header)
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            runs = layer.chosen
            if layer.precision != "fp32":
                runs = f"{layer.precision}, zeros {layer.pattern}, kernel {layer.chosen}"
            lines.append(
                f"{layer.name:<32} {shape:<20} {layer.sparsity:>6.1%} {_ms(layer.dense_ms):>9} "
                f"{_ms(layer.sparse_ms):>9}  {runs}: {layer.reason}"
            )
        return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"
