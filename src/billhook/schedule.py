"""Sparsity as a function of the step: one class per rising curve (Zhu & Gupta 2017, eq. 1)."""

import abc
import bisect
import dataclasses
import functools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from billhook.errors import ConfigurationError

__all__ = [
    "Cubic",
    "Hold",
    "OneShot",
    "Polynomial",
    "Schedule",
    "check_step",
    "merged_updates",
]

#: Steps between mask updates unless said otherwise. The paper: 100 to 1,000 made no difference.
FREQUENCY = 100
#: The window that :meth:`Schedule.over` takes, in shares of the run, and ``plan`` in shares of its
#: learning: by then weights have settled, and afterwards they can still recover.
SUGGESTED = (0.1, 0.8)


class _Steps(tuple[int, ...]):
    """Rising steps; ``in`` is a bisection."""

    __slots__ = ()

    def __contains__(self, step: object) -> bool:
        place = bisect.bisect_left(self, step) if isinstance(step, int) else len(self)
        return place < len(self) and self[place] == step


class _Spread(Sequence[int]):
    """The steps of a window at which masks change, made when asked for: there may be billions.

    Args:
        begin: the first.
        window: how far from it the last one is.
        count: how many there are after the first.
        frequency: the steps between two of them, the last interval excepted; None: ``count`` of
            them are spread as evenly as whole steps allow.
    """

    def __init__(self, begin: int, window: int, count: int, frequency: int | None) -> None:
        self._begin, self._window, self._count, self._frequency = begin, window, count, frequency

    def __len__(self) -> int:
        return self._count + 1

    def __getitem__(self, index: Any) -> Any:
        places = range(self._count + 1)[index]
        return tuple(map(self._step, places)) if isinstance(index, slice) else self._step(places)

    def __contains__(self, step: object) -> bool:
        place = bisect.bisect_left(self, step) if isinstance(step, int) else len(self)
        return place < len(self) and self[place] == step

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Spread) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def _step(self, place: Any) -> int:
        if self._frequency is not None:
            return self._begin + min(int(place) * self._frequency, self._window)
        return self._begin + int(place) * self._window // self._count


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A rise of sparsity from ``initial_sparsity`` to ``final_sparsity`` within a window of steps.

    Masks change at ``updates`` and at no other step. From t_0 = ``begin_step`` to t_n =
    ``end_step``::

        s_t = s_i + (s_f - s_i) * rise((t - t_0) / (t_n - t_0))    t in {t_0, t_0 + Dt, ..., t_n}

    Step t means that t optimizer steps have been taken since the pruner attached. Calling a
    schedule gives the sparsity of the mask in force at any step: 0 before ``begin_step``, the last
    update's in between, exactly ``final_sparsity`` from ``end_step`` on.

    Args:
        final_sparsity: s_f, the share of weights that are zero in the end, in [0, 1).
        begin_step: t_0, the step of the first mask update, at least 0.
        end_step: t_n, the step of the last one, whether ``frequency`` divides the window or not.
        frequency: Dt, the steps between two updates, 100 if neither this nor ``num_updates`` is
            given. The last interval is shorter where the window is not a multiple of it.
        num_updates: n, the number of updates after the first, instead of a frequency. They are
            spread as evenly as whole steps allow.
        initial_sparsity: s_i, the sparsity after the update at ``begin_step``.

    Raises:
        ConfigurationError: a value is out of bounds, or ``frequency`` and ``num_updates`` disagree.
    """

    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int | None = None
    num_updates: int | None = None
    initial_sparsity: float = 0.0

    #: The masks are taken from the zeros of the weights, not from scores: see :class:`Hold`.
    holds_zeros: ClassVar[bool] = False
    #: The sparsity may fall from one update to the next.
    falls: ClassVar[bool] = False
    #: Where the sparsity changes, masked weights return as zeros and optimizer state starts afresh.
    restarts: ClassVar[bool] = False

    @abc.abstractmethod
    def rise(self, progress: float) -> float:
        """The share of the way from initial to final sparsity at ``progress`` in [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("begin_step", "end_step", "frequency", "num_updates"):  # numpy's, say
            value = getattr(self, name)
            if isinstance(value, numbers.Integral) and not isinstance(value, int):
                object.__setattr__(self, name, int(value))
        _check_sparsity("final_sparsity", self.final_sparsity)
        _check_sparsity("initial_sparsity", self.initial_sparsity)
        if self.initial_sparsity > self.final_sparsity:
            raise ConfigurationError(
                f"initial_sparsity {self.initial_sparsity} is above final_sparsity "
                f"{self.final_sparsity}: a pruning schedule rises; lower initial_sparsity"
            )
        check_step("begin_step", self.begin_step, 0)
        check_step("end_step", self.end_step, self.begin_step + 1)
        self._settle_interval()

    @classmethod
    def over(cls, total_steps: int, final_sparsity: float, **options: Any) -> Self:
        """The schedule for a run of ``total_steps`` optimizer steps, without further arithmetic.

        The window is the one that :func:`billhook.plan` suggests for a constant learning rate:
        from 10% to 80% of the run. Masks change every 100 steps, or ten times in a window that is
        shorter than 1,000 steps. ``options`` are further arguments of the class.

        Raises:
            ConfigurationError: the run has fewer than two steps, or an option is out of bounds.

        >>> schedule = Cubic.over(20_000, 0.9)
        >>> schedule.begin_step, schedule.end_step, schedule.frequency
        (2000, 16000, 100)
        """
        check_step("total_steps", total_steps, 2)
        begin = options.pop("begin_step", math.floor(SUGGESTED[0] * total_steps))
        end = options.pop("end_step", max(begin + 1, math.floor(SUGGESTED[1] * total_steps)))
        if options.get("frequency") is None and options.get("num_updates") is None:
            options["frequency"] = max(1, min(FREQUENCY, (end - begin) // 10))
        return cls(final_sparsity, begin, end, **options)

    def towards(self, final_sparsity: float) -> Self:
        """This schedule with another final sparsity, the initial one in the same proportion.

        This is what a number in a pruner's ``rules`` means.

        >>> Cubic(0.8, 0, 100, initial_sparsity=0.4).towards(0.5).initial_sparsity
        0.25
        """
        share = self.initial_sparsity / self.final_sparsity if self.final_sparsity else 0.0
        return dataclasses.replace(
            self, final_sparsity=final_sparsity, initial_sparsity=final_sparsity * share
        )

    @property
    def interval(self) -> int:
        """Dt, the steps between two mask updates (rounded down where they are spread)."""
        if self.frequency is not None:
            return self.frequency
        assert self.num_updates  # one of the two is set by __post_init__
        return max(1, self._window // self.num_updates)

    @functools.cached_property
    def updates(self) -> Sequence[int]:
        """The steps at which masks change, ``begin_step`` and ``end_step`` included."""
        begin, end, count = self.begin_step, self.end_step, self.num_updates
        if self.frequency is None:
            assert count
            return _Spread(begin, self._window, count, None)
        if self._window % self.frequency == 0:
            return range(begin, end + 1, self.frequency)
        assert count
        return _Spread(begin, self._window, count, self.frequency)

    def __call__(self, step: int) -> float:
        """The sparsity of the mask in force once ``step`` optimizer steps have been taken."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        last = self.updates[bisect.bisect_right(self.updates, step) - 1]
        return self.at((last - self.begin_step) / self._window)

    def at(self, progress: float) -> float:
        """The sparsity at ``progress`` through the window, in [0, 1]: the curve itself."""
        if progress >= 1.0:
            return self.final_sparsity  # not a rounding error away from it
        span = self.final_sparsity - self.initial_sparsity
        return self.initial_sparsity + span * self.rise(progress)

    @property
    def _window(self) -> int:
        return self.end_step - self.begin_step

    def _settle_interval(self) -> None:
        """Fill in whichever of ``frequency`` and ``num_updates`` follows from the other."""
        window, frequency, count = self._window, self.frequency, self.num_updates
        if count is not None:
            check_step("num_updates", count, 1)
            if count > window:
                raise ConfigurationError(
                    f"num_updates {count} does not fit into a window of {window} steps: masks "
                    f"change once per step at most; use {window} or fewer"
                )
        if frequency is None and count is None:
            frequency = FREQUENCY
        if frequency is not None:
            check_step("frequency", frequency, 1)
            if count not in (None, -(-window // frequency)):
                raise ConfigurationError(
                    f"frequency {frequency} and num_updates {count} contradict each other over "
                    f"{window} steps: give one of them"
                )
            count = -(-window // frequency)
        elif count is not None and window % count == 0:
            frequency = window // count
        object.__setattr__(self, "frequency", frequency)
        object.__setattr__(self, "num_updates", count)


@dataclasses.dataclass(frozen=True)
class Cubic(Schedule):
    """Eq. 1 of the paper: fast while there is much to remove, slow towards the end.

    ``s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * Dt)) ** 3``

    Args:
        final_sparsity: s_f, the share of weights that are zero in the end, in [0, 1).
        begin_step: t_0, the optimizer step of the first mask update.
        end_step: t_0 + n * Dt, the step of the last one; any step after ``begin_step``.
        frequency: Dt, the steps between two updates, 100 unless given.
        num_updates: n, the number of updates after the first, instead of a frequency.
        initial_sparsity: s_i, the sparsity after the update at ``begin_step``.

    Source: Zhu & Gupta 2017, eq. 1 (arXiv 1710.01878).

    >>> schedule = Cubic(0.9, begin_step=0, end_step=100, frequency=1)
    >>> [round(schedule(t), 4) for t in (0, 24, 45, 70, 100)]
    [0.0, 0.5049, 0.7503, 0.8757, 0.9]
    >>> Cubic(0.9, begin_step=2_000, end_step=20_000, num_updates=180).frequency
    100
    >>> list(Cubic(0.9, begin_step=0, end_step=250).updates)
    [0, 100, 200, 250]
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
            check_step("begin_step", self.begin_step, 0)
            check_step("frequency", 1 if self.frequency is None else self.frequency, 1)
            object.__setattr__(self, "end_step", self.begin_step)
            object.__setattr__(self, "frequency", self.frequency or 1)
            object.__setattr__(self, "num_updates", 0)
        else:
            super().__post_init__()

    def rise(self, progress: float) -> float:  # noqa: ARG002 - the same wherever we are
        """1: the final sparsity is reached at once."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Hold(Schedule):
    """Keep the zeros that the weights have when the pruner attaches, and add none.

    The mask of every selected tensor is ``weight != 0`` at attach and does not change: a sparse
    checkpoint of any origin is trained on with its zeros in place. Criterion, granularity and
    allocation are not used. Tensors without a single zero stay dense; a warning names them.

    >>> import torch, billhook
    >>> model = torch.nn.Linear(4, 1)
    >>> model.weight.data = torch.tensor([[1.0, 0.0, -2.0, 0.0]])
    >>> pruner = billhook.Pruner(model, torch.optim.SGD(model.parameters(), lr=0.1), Hold())
    >>> pruner.masks["weight"]
    tensor([[ True, False,  True, False]])
    """

    final_sparsity: float = dataclasses.field(default=0.0, init=False, repr=False)
    begin_step: int = dataclasses.field(default=0, init=False, repr=False)
    end_step: int = dataclasses.field(default=0, init=False, repr=False)
    frequency: int | None = dataclasses.field(default=1, init=False, repr=False)
    num_updates: int | None = dataclasses.field(default=0, init=False, repr=False)
    initial_sparsity: float = dataclasses.field(default=0.0, init=False, repr=False)

    holds_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """There is nothing to check."""

    def towards(self, final_sparsity: float) -> Self:
        """Refuse to give a tensor its own sparsity.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"rules set sparsity {final_sparsity:g} for a tensor, but Hold() takes each tensor's "
            "zeros as they are: set the rule to None (leave it dense) or to a schedule of its own"
        )

    def rise(self, progress: float) -> float:  # noqa: ARG002 - nothing changes
        """1: the mask is in force from the start."""
        return 1.0


def merged_updates(schedules: Iterable[Schedule]) -> Sequence[int]:
    """The steps at which any of the schedules has an update.

    >>> merged_updates([OneShot(0.5, 3), OneShot(0.9, 0), OneShot(0.5, 3)])
    (0, 3)
    """
    different = list(dict.fromkeys(schedules))
    if len(different) == 1:
        return different[0].updates
    return _Steps(sorted({step for schedule in different for step in schedule.updates}))


def _check_sparsity(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigurationError(
            f"{name} {value!r} is not a number: it is the share of weights that are zero, for "
            "example 0.9 for 90%"
        )
    if not 0.0 <= value < 1.0:  # NaN fails too
        raise ConfigurationError(
            f"{name} {value} is outside [0, 1): it is the share of weights that are zero, "
            "for example 0.9 for 90%"
        )


def check_step(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{name} {value!r} is not a whole number of optimizer steps")
    if value < least:
        raise ConfigurationError(f"{name} {value} is below {least}: use {least} or more")
