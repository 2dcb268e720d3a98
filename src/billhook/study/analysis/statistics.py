"""Means and differences over seeds: Student-t and Welch intervals, Holm's correction, weights."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from billhook.errors import ConfigurationError

__all__ = [
    "LEVEL",
    "Estimate",
    "Interval",
    "holm",
    "log_weights",
    "mean_of",
    "paired",
    "same_means",
    "spread",
    "welch",
]

#: The level of all intervals.
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """The interval in another unit, or of the opposite."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.mean * factor, low, high)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimated quantity, its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    def interval(self, level: float = LEVEL) -> Interval:
        """``mean +- t(level, freedom) * error``; without spread ``low == high``, its limit."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.freedom, 0.5 + level / 2)) * self.error
        return Interval(self.mean, self.mean - reach, self.mean + reach)

    @property
    def p_value(self) -> float:
        """Two-sided: could the quantity be zero? Without spread 1 if the mean is 0, else 0."""
        from scipy.special import stdtr

        if self.error == 0.0:
            return 1.0 if self.mean == 0.0 else 0.0
        return 2.0 * float(stdtr(self.freedom, -abs(self.mean) / self.error))


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of independent, roughly normal values.

    ``error = sqrt(sum((x - mean)**2) / (n - 1) / n)`` with n - 1 degrees of freedom.

    Raises:
        ConfigurationError: fewer than two values have no spread to judge by.

    >>> interval = mean_of([1.0, 2.0, 3.0]).interval()
    >>> round(interval.low, 3), interval.mean, round(interval.high, 3)
    (-0.484, 2.0, 4.484)
    """
    if len(values) < 2:
        raise ConfigurationError(
            f"{len(values)} value has no spread, so no interval: use at least 2 seeds"
        )
    mean = math.fsum(values) / len(values)
    return Estimate(
        mean, math.sqrt(_squares(values) / (len(values) - 1) / len(values)), len(values) - 1
    )


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of ``a - b`` where both values of a pair share what makes them vary.

    >>> round(paired([1.0, 4.0, 9.0], [0.0, 2.0, 6.0]).p_value, 4)
    0.0742
    """
    return mean_of([x - y for x, y in zip(a, b, strict=True)])


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """``mean(a) - mean(b)`` of independent samples whose spreads may differ.

    ``error**2 = e_a**2 + e_b**2`` with the degrees of freedom ``error**4 / (e_a**4 / (n_a - 1) +
    e_b**4 / (n_b - 1))``. Source: Welch 1947, Biometrika 34, 28-35.

    >>> difference = welch([1.0, 2.0, 3.0], [0.0, 0.0, 0.3])
    >>> round(difference.mean, 3), round(difference.freedom, 3)
    (1.9, 2.12)
    """
    first, second = mean_of(a), mean_of(b)
    error = math.hypot(first.error, second.error)
    if error == 0.0:
        return Estimate(first.mean - second.mean, 0.0, first.freedom + second.freedom)
    shares = [(each.error / error) ** 4 / each.freedom for each in (first, second)]
    return Estimate(first.mean - second.mean, error, 1.0 / sum(shares))


def spread(groups: Sequence[Sequence[float]]) -> float:
    """The standard deviation within groups, pooled.

    >>> spread([[1.0, 3.0], [10.0, 12.0]]) == 2**0.5
    True
    """
    squares = math.fsum(_squares(group) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / freedom) if freedom else 0.0


def same_means(groups: Sequence[Sequence[float]], *, paired: bool = False) -> float:
    """The p-value of an analysis of variance: could the means of all groups be equal?

    ``F = (between / (k - 1)) / (within / f)``, sums of squares of k groups; ``f = n - k`` for
    independent values. With ``paired`` the j-th values of all groups share what makes them vary:
    that is taken out of ``within`` and ``f = (k - 1) (n / k - 1)``. Without spread 1 if the means
    are equal, else 0.

    >>> round(same_means([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), 4)
    0.2879
    """
    from scipy.special import fdtrc

    k, n = len(groups), sum(map(len, groups))
    total = _squares([value for group in groups for value in group])
    within = math.fsum(map(_squares, groups))
    between, freedom = total - within, n - k
    if paired:
        within -= k * _squares([math.fsum(each) / k for each in zip(*groups, strict=True)])
        freedom = (k - 1) * (n // k - 1)
    if within <= 1e-12 * total:
        return 1.0 if between <= 1e-12 * total else 0.0
    return float(fdtrc(k - 1, freedom, between / (k - 1) / (within / freedom)))


def _squares(values: Sequence[float]) -> float:
    """The sum of squares about the mean."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


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


def log_weights(sizes: Sequence[float]) -> list[float]:
    """Weights for a mean over the logarithm of ``sizes``, which rise; they add up to 1.

    With ``x = log(size)``, the trapezoid rule: ``sum(w_k * y_k) = integral of y over x / (x_K -
    x_1)`` for the straight lines between the y_k. A single size has weight 1.

    >>> [round(w, 3) for w in log_weights([1, 10, 1000])]
    [0.167, 0.5, 0.333]
    """
    if len(sizes) == 1:
        return [1.0]
    logs = [math.log(size) for size in sizes]
    steps = [high - low for low, high in itertools.pairwise(logs)]
    halves = zip([0.0, *steps], [*steps, 0.0], strict=True)
    return [(before + after) / (2 * (logs[-1] - logs[0])) for before, after in halves]
