"""Sparsity as a function of the step: one class a curve (Zhu & Gupta 2017, eq. 1)."""

import abc
import dataclasses
import math

from billhook.errors import ConfigurationError

__all__ = ["Cubic", "OneShot", "Polynomial", "Schedule"]


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A rise of sparsity from ``initial_sparsity`` to ``final_sparsity`` on a grid of steps.

    Masks change at the steps ``t in {t_0, t_0 + Dt, ..., t_0 + n * Dt}`` and at no other::

        s_t = s_i + (s_f - s_i) * rise((t - t_0) / (n * Dt))

    Step t means that t optimizer steps have been taken since the pruner attached. Calling a
    schedule gives the sparsity of the mask in force at any step: 0 before ``begin_step``, the last
    update's in between, exactly ``final_sparsity`` from ``end_step`` on.

    Args:
        final_sparsity: s_f, the share of weights that are zero in the end, in [0, 1).
        begin_step: t_0, the step of the first mask update, at least 0.
        end_step: t_0 + n * Dt, the step of the last one.
        frequency: Dt, the steps between two updates. Give this or ``num_updates``.
        num_updates: n, the number of updates after the first. It must divide the window.
        initial_sparsity: s_i, the sparsity after the update at ``begin_step``.

    Raises:
        ConfigurationError: if a value is out of bounds or ``end_step`` is off the update grid.
    """

    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int | None = None
    num_updates: int | None = None
    initial_sparsity: float = 0.0

    @abc.abstractmethod
    def rise(self, progress: float) -> float:
        """The share of the way from initial to final sparsity at ``progress`` in [0, 1]."""

    def __post_init__(self) -> None:
        _check_sparsity("final_sparsity", self.final_sparsity)
        _check_sparsity("initial_sparsity", self.initial_sparsity)
        if self.initial_sparsity > self.final_sparsity:
            raise ConfigurationError(
                f"initial_sparsity {self.initial_sparsity} is above final_sparsity "
                f"{self.final_sparsity}: a pruning schedule rises; lower initial_sparsity"
            )
        _check_step("begin_step", self.begin_step, 0)
        _check_step("end_step", self.end_step, self.begin_step + 1)
        object.__setattr__(self, "frequency", self._interval())
        object.__setattr__(self, "num_updates", self._window // self.interval)

    @property
    def interval(self) -> int:
        """Dt, the steps between two mask updates."""
        assert self.frequency is not None  # set by __post_init__
        return self.frequency

    @property
    def updates(self) -> range:
        """The steps at which masks change, ``begin_step`` and ``end_step`` included."""
        return range(self.begin_step, self.end_step + 1, self.interval)

    def __call__(self, step: int) -> float:
        """The sparsity of the mask in force once ``step`` optimizer steps have been taken."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        return self.at((step - self.begin_step) // self.interval * self.interval / self._window)

    def at(self, progress: float) -> float:
        """The sparsity at ``progress`` through the window, in [0, 1]: the curve itself."""
        if progress >= 1.0:
            return self.final_sparsity  # not a rounding error away from it
        span = self.final_sparsity - self.initial_sparsity
        return self.initial_sparsity + span * self.rise(progress)

    @property
    def _window(self) -> int:
        return self.end_step - self.begin_step

    def _interval(self) -> int:
        """``frequency``, given or from ``num_updates``, once it fits the window."""
        window = self._window
        if self.frequency is None and self.num_updates is None:
            raise ConfigurationError(
                "neither frequency nor num_updates is given: say how often masks change, for "
                "example frequency=100 steps, or num_updates=100 over the window"
            )
        if self.num_updates is not None:
            _check_step("num_updates", self.num_updates, 1)
        if self.frequency is not None:
            _check_step("frequency", self.frequency, 1)
            if self.num_updates not in (None, window // self.frequency):
                raise ConfigurationError(
                    f"frequency {self.frequency} and num_updates {self.num_updates} contradict "
                    f"each other over {window} steps: give one of them"
                )
            count = self.frequency
        else:
            assert self.num_updates is not None
            count = self.num_updates
        if window % count:
            below = self.begin_step + window // count * count
            nearest = [end for end in (below, below + count) if end > self.begin_step]
            raise ConfigurationError(
                f"end_step {self.end_step} is off the update grid: the window of {window} steps "
                f"from begin_step {self.begin_step} is no multiple of {count}; use end_step="
                + " or ".join(map(str, nearest))
            )
        return self.frequency if self.frequency is not None else window // count


@dataclasses.dataclass(frozen=True)
class Cubic(Schedule):
    """Eq. 1 of the paper: fast while there is much to remove, slow towards the end.

    ``s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * Dt)) ** 3``

    Source: Zhu & Gupta 2017, eq. 1 (arXiv 1710.01878).

    >>> schedule = Cubic(0.9, begin_step=0, end_step=100, frequency=1)
    >>> [round(schedule(t), 4) for t in (0, 24, 45, 70, 100)]
    [0.0, 0.5049, 0.7503, 0.8757, 0.9]
    >>> Cubic(0.9, begin_step=2_000, end_step=20_000, num_updates=180).frequency
    100
    >>> Cubic(0.9, begin_step=0, end_step=250, frequency=100)
    Traceback (most recent call last):
    ...
    billhook.errors.ConfigurationError: end_step 250 is off the update grid: the window of 250 \
steps from begin_step 0 is no multiple of 100; use end_step=200 or 300
    """

    def rise(self, progress: float) -> float:
        """``1 - (1 - progress) ** 3``."""
        return 1.0 - (1.0 - progress) ** 3


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """Eq. 1 with another power: ``exponent=1`` is a straight line, 3 is :class:`Cubic`.

    ``s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * Dt)) ** exponent``

    >>> line = Polynomial(0.8, begin_step=0, end_step=4, frequency=1, exponent=1.0)
    >>> [round(line(t), 2) for t in range(6)]
    [0.0, 0.2, 0.4, 0.6, 0.8, 0.8]
    """

    exponent: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.exponent) and self.exponent > 0):
            raise ConfigurationError(
                f"exponent {self.exponent} gives no rising curve: use a number above 0, "
                "for example 3 (the paper's) or 1 (a straight line)"
            )

    def rise(self, progress: float) -> float:
        """``1 - (1 - progress) ** exponent``."""
        return float(1.0 - (1.0 - progress) ** self.exponent)


@dataclasses.dataclass(frozen=True)
class OneShot(Schedule):
    """All at once: ``final_sparsity`` from ``begin_step`` on.

    With an ``end_step`` beyond ``begin_step`` the mask is drawn anew, at the same sparsity, at
    every update in between, so that weights can still change places.

    >>> schedule = OneShot(0.9, begin_step=10)
    >>> [schedule(t) for t in (9, 10, 11)], list(schedule.updates)
    ([0.0, 0.9, 0.9], [10])
    """

    begin_step: int = 0
    end_step: int = -1  # -1: the one update at begin_step

    def __post_init__(self) -> None:
        if self.end_step in (-1, self.begin_step) and self.num_updates in (None, 0):
            _check_sparsity("final_sparsity", self.final_sparsity)
            _check_step("begin_step", self.begin_step, 0)
            _check_step("frequency", 1 if self.frequency is None else self.frequency, 1)
            object.__setattr__(self, "end_step", self.begin_step)
            object.__setattr__(self, "frequency", self.frequency or 1)
            object.__setattr__(self, "num_updates", 0)
        else:
            super().__post_init__()

    def rise(self, progress: float) -> float:  # noqa: ARG002 - the same wherever we are
        """1: the whole way at once."""
        return 1.0


def _check_sparsity(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:  # NaN fails too
        raise ConfigurationError(
            f"{name} {value} is outside [0, 1): it is the share of weights that are zero, "
            "for example 0.9 for 90%"
        )


def _check_step(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{name} {value!r} is not a whole number of optimizer steps")
    if value < least:
        raise ConfigurationError(f"{name} {value} is below {least}: use {least} or more")
