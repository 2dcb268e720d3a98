"""The ranges of activations, from histograms of calibration batches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from billhook.errors import ConfigurationError

__all__ = ["Calibration", "Histogram", "Method", "batches_of", "split"]

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
    The last fifth of the batches (of the samples, where there is one batch) is held out: on it
    the report's error and agreement are measured.

    Args:
        batches: Inputs as the model takes them, some hundred samples in all.
        method: How a range follows from a histogram.
        percentile: Of the values, in percent.
        bound: The relative error of outputs on held-out batches (2-norm) beyond which ``compile``
            refuses the program.

    >>> Calibration([torch.rand(8, 3, 32, 32)], method="mse").method
    'mse'
    """

    batches: Iterable[Any]
    method: Method = "percentile"
    percentile: float = 99.99
    bound: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigurationError(
                f"the calibration's method is {self.method!r}: known are {', '.join(METHODS)}"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigurationError(
                f"the calibration's percentile is {self.percentile}: give one above 50, at most 100"
            )


def batches_of(calibration: Calibration, inputs: tuple[Any, ...]) -> list[Any]:
    """The batches, checked against the example inputs: tensors, or tuples where there are several.

    Raises:
        ConfigurationError: There are none, or one does not fit.
    """
    batches = []
    for index, batch in enumerate(calibration.batches):
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if len(parts) != len(inputs):
            raise ConfigurationError(
                f"calibration batch {index} has {len(parts)} inputs, the example has {len(inputs)}"
            )
        for part, example in zip(parts, inputs, strict=True):
            _check_part(index, part, example)
        batches.append(parts if len(parts) > 1 else parts[0])
    if not batches:
        raise ConfigurationError(
            "the calibration has no batches: pass an iterable of inputs as the model takes them "
            "(some hundred samples)"
        )
    return batches


def _check_part(index: int, part: Any, example: Any) -> None:
    where = f"calibration batch {index}"
    if not torch.is_tensor(example):
        return
    if not torch.is_tensor(part):
        raise ConfigurationError(f"{where} is a {type(part).__name__}: the model takes a tensor")
    if part.dtype != example.dtype or not part.is_cpu:
        raise ConfigurationError(
            f"{where} is {part.dtype} on {part.device}: "
            f"the example input is {example.dtype} on the CPU"
        )
    fixed = slice(1, None) if example.dim() == 4 else slice(-1, None)
    varies = example.dim() != 4 and not example.is_floating_point()
    fits = part.dim() == example.dim() and (varies or part.shape[fixed] == example.shape[fixed])
    if not fits or part.numel() == 0:
        raise ConfigurationError(
            f"{where} has shape {tuple(part.shape)}: the example input has {tuple(example.shape)}, "
            "of which the batch alone may differ"
        )
    if part.is_floating_point() and not bool(part.isfinite().all()):
        raise ConfigurationError(f"{where} holds NaN or infinity")


def split(batches: list[Any]) -> tuple[list[Any], list[Any], bool]:
    """Batches for ranges, those that are held out, and whether these are others.

    >>> ranging, held, apart = split([torch.zeros(10, 1, 2, 2)])
    >>> len(ranging[0]), len(held[0]), apart
    (8, 2, True)
    """
    if len(batches) > 1:
        count = max(1, len(batches) // 5)
        return batches[:-count], batches[-count:], True
    only = batches[0]
    if torch.is_tensor(only) and only.dim() == 4 and len(only) > 1:
        count = max(1, len(only) // 5)
        return [only[:-count]], [only[-count:]], True
    return batches, batches, False


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
