"""The ranges of activations, from histograms of calibration batches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from billhook.errors import ConfigurationError

__all__ = ["Calibration", "Histogram", "Method", "batches_of"]

Method = Literal["percentile", "mse", "largest"]
METHODS = ("percentile", "mse", "largest")
BINS = 2048
CANDIDATES = 80  # ranges that the mean-square error is compared for
LEVELS = 255


@dataclass(frozen=True)
class Calibration:
    """Batches that ``compile(..., precision="int8")`` finds activations' ranges with.

    ``method``: "percentile" leaves out the share of values beyond ``percentile`` %, "mse" takes the
    range of the least mean-square error of rounding and saturation, "largest" holds all values.
    The last fifth of the batches, at least one where there are two, are held out: on them the
    report's error and agreement are measured.

    Args:
        batches: Inputs as the model takes them, some hundred samples in all.
        method: How a range follows from a histogram.
        percentile: Of the values, in percent.

    >>> Calibration([torch.rand(8, 3, 32, 32)], method="mse").method
    'mse'
    """

    batches: Iterable[Any]
    method: Method = "percentile"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigurationError(
                f"the calibration's method is {self.method!r}: known are {', '.join(METHODS)}"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigurationError(
                f"the calibration's percentile is {self.percentile}: give one above 50, at most 100"
            )


def batches_of(calibration: Any, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """The batches, checked: fp32 tensors (N, *shape) on the CPU, finite.

    Raises:
        ConfigurationError: There are none, or one does not fit.
    """
    batches = [
        batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 else batch
        for batch in calibration.batches
    ]
    if not batches:
        raise ConfigurationError(
            "precision='int8' needs calibration data: pass calibration=batches, an iterable of "
            "inputs as the model takes them (some hundred samples)"
        )
    for index, batch in enumerate(batches):
        if not torch.is_tensor(batch):
            raise ConfigurationError(
                f"calibration batch {index} is a {type(batch).__name__}: "
                "this model takes one tensor"
            )
        if batch.dtype != torch.float32 or not batch.is_cpu:
            raise ConfigurationError(
                f"calibration batch {index} is {batch.dtype} on {batch.device}: "
                "compile takes fp32 on the CPU"
            )
        if tuple(batch.shape[1:]) != shape or len(batch) == 0:
            raise ConfigurationError(
                f"calibration batch {index} has shape {tuple(batch.shape)}: "
                f"the example input asks for (N, {', '.join(map(str, shape))})"
            )
        if not bool(batch.isfinite().all()):
            raise ConfigurationError(f"calibration batch {index} holds NaN or infinity")
    return batches


@dataclass
class Histogram:
    """Counts of a value's numbers in bins from ``low`` to ``high``; observe the bounds first."""

    low: float = 0.0
    high: float = 0.0
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def widen(self, values: torch.Tensor) -> None:
        """Takes in the least and the largest value."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def count(self, values: torch.Tensor) -> None:
        """Counts values within the bounds."""
        if self.high > self.low:
            self.counts += torch.histc(values, BINS, self.low, self.high).double()

    def bounds(self, method: Method, percentile: float) -> tuple[float, float]:
        """The range that the method takes, which holds zero."""
        if method == "largest" or self.high == self.low:
            return self.low, self.high
        return self._percentile(percentile) if method == "percentile" else self._least_error()

    def _edges(self) -> torch.Tensor:
        return torch.linspace(self.low, self.high, BINS + 1, dtype=torch.float64)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        """Half of what is left out at either end; where nothing is negative, all at the upper."""
        share = self.counts.cumsum(0) / self.counts.sum()
        left_out = 1 - percentile / 100
        ends = 2 if self.low < 0 < self.high else 1
        edges = self._edges()
        upper = int((share < 1 - left_out / ends).sum()) + 1
        lower = int((share <= left_out / ends).sum()) if self.low < 0 else 0
        return min(float(edges[lower]), 0.0), max(float(edges[min(upper, BINS)]), 0.0)

    def _least_error(self) -> tuple[float, float]:
        edges = self._edges()
        middle = (edges[1:] + edges[:-1]) / 2
        best, least = (self.low, self.high), float("inf")
        for i in range(CANDIDATES):
            share = 1 - i / (CANDIDATES + 1)
            low, high = self.low * share, self.high * share
            step = (high - low) / LEVELS
            outside = (middle - middle.clamp(low, high)).square()
            error = float((self.counts * (outside + step * step / 12)).sum())
            if error < least:
                best, least = (low, high), error
        return best
