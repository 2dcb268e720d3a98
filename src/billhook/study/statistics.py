"""Student-t intervals over seeds, paired differences, and Holm's correction for many points."""

import dataclasses
import math
from collections.abc import Sequence

from billhook.errors import ConfigurationError

__all__ = ["Interval", "holm", "paired_p_value", "resampling_factor", "t_interval"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """The interval in another unit; ``factor`` is above 0."""
        return Interval(self.mean * factor, self.low * factor, self.high * factor)


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The interval for the mean of independent, roughly normal values.

    ``mean +- t(level, n - 1) * sqrt(sum((x - mean)**2) / (n - 1) / n)``. Given the differences of
    pairs it is the interval of the paired t-test. Values without spread give ``low == high``, the
    formula's limit.

    Raises:
        ConfigurationError: fewer than two values have no spread to judge by.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 3), interval.mean, round(interval.high, 3)
    (-0.484, 2.0, 4.484)
    """
    from scipy.special import stdtrit

    mean, error = _mean_and_error(values)
    reach = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - reach, mean + reach)


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test: could the mean difference be zero?

    Differences without spread give the formula's limit: 1 if they are all zero, else 0.

    >>> round(paired_p_value([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    from scipy.special import stdtr

    mean, error = _mean_and_error(differences)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return 2.0 * float(stdtr(len(differences) - 1, -abs(mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    With m values, the k-th smallest becomes ``max over j <= k of min(1, (m - j + 1) * p_(j))``.
    Calling those below alpha decided, any is wrongly so with probability at most alpha, however
    the tests depend on each other. Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def resampling_factor(seeds: int, train: int, test: int) -> float:
    """How much wider an interval over random splits must be to speak of new data.

    Splits of one data set overlap, so their results vary less than those on fresh data would:
    ``sqrt((1 / n + n_test / n_train) / (1 / n))``, a conservative correction. Source: Nadeau &
    Bengio 2003, Machine Learning 52, 239-281.

    >>> round(resampling_factor(10, train=900, test=100), 2)
    1.45
    """
    return math.sqrt(1.0 + seeds * test / train)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    if len(values) < 2:
        raise ConfigurationError(
            f"{len(values)} value has no spread, so no interval: use at least 2 seeds"
        )
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1) / len(values))
