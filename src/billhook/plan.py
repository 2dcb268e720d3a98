"""A dry run of a pruning schedule against the learning rate (the paper's Fig. 2a), with warnings.

The paper: with too small a learning rate the network cannot recover from the pruning, with too
large a one the weights have not settled; choose both schedules together. The paper gives no
numbers for "too small" and "too large"; the ones below are billhook's.
"""

import contextlib
import copy
import dataclasses
import itertools
import os
import warnings
from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from billhook.errors import ConfigurationError
from billhook.granularity import Granularity, Unstructured
from billhook.render import Table, as_text
from billhook.schedule import SUGGESTED, Schedule
from billhook.selection import Rules, select_weights
from billhook.selection_advice import fewer_weights_than_rows

__all__ = ["Plan", "plan"]

#: An update at less than this share of the run's highest learning rate is hard to recover from.
RECOVERY_RATE = 0.02
#: Where the learning rate runs in cycles, less than this share of a cycle's peak is low.
OFF_PEAK = 0.5
#: Less than this share of the run's learning (the sum of its rates) after end_step is too little.
RECOVERY_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sparsity and learning rate over the steps of a run; prints as a table with its warnings.

    ``rates[t]`` is the learning rate of the step that takes the count from t to t + 1.
    """

    schedule: Schedule
    rates: tuple[float, ...]
    warnings: tuple[str, ...]
    suggestion: str

    @property
    def steps(self) -> int:
        """The optimizer steps of the run."""
        return len(self.rates)

    @property
    def updates(self) -> tuple[tuple[int, float, float], ...]:
        """``(step, sparsity, learning rate of the next step)`` of each mask update in the run."""
        return tuple(
            (step, self.schedule(step), self.rates[min(step, self.steps - 1)])
            for step in self.schedule.updates
            if step <= self.steps
        )

    def __rich__(self) -> RenderableType:
        title = f"{len(self.updates)} mask updates in {self.steps:,} optimizer steps"
        stride = max(1, len(self.updates) // 12)
        shown = [*self.updates[:-1:stride], *self.updates[-1:]]
        rows = [(f"{step:,}", f"{sparsity:.2%}", f"{rate:.3g}") for step, sparsity, rate in shown]
        table = Table(title, ("step", "sparsity", "learning rate"), rows)
        return Group(table, *(f"warning: {each}" for each in self.warnings), self.suggestion)

    def __str__(self) -> str:
        return as_text(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw sparsity and learning rate over the steps (.png, .svg or .html, by its ending).

        Needs the ``study`` extra.
        """
        import altair as alt

        stride = max(1, self.steps // 500)
        rows = [
            {"step": step, "sparsity": self.schedule(step), "learning rate": self.rates[step]}
            for step in range(0, self.steps, stride)
        ]
        base = alt.Chart({"values": rows}).encode(x=alt.X("step:Q", title="optimizer step"))
        sparsity = base.mark_line(interpolate="step-after", color="#1f77b4").encode(
            y=alt.Y("sparsity:Q", axis=alt.Axis(format="%", titleColor="#1f77b4"))
        )
        rate = base.mark_line(color="#d62728", strokeDash=[6, 3]).encode(
            y=alt.Y("learning rate:Q", axis=alt.Axis(titleColor="#d62728"))
        )
        chart = alt.layer(sparsity, rate).resolve_scale(y="independent")
        chart.properties(width=560, height=280).save(os.fspath(path))


def plan(
    schedule: Schedule,
    learning_rate: LRScheduler | Callable[[int], float] | float,
    steps: int,
    *,
    model: nn.Module | None = None,
    rules: Rules | None = None,
    granularity: Granularity = Unstructured(),
) -> Plan:
    """What a pruner with ``schedule`` would do in a run of ``steps`` optimizer steps.

    Args:
        schedule: the pruner's.
        learning_rate: a scheduler that is stepped once per optimizer step (it is run on a copy), a
            function of the number of steps taken, or a constant.
        steps: the optimizer steps of the whole run.
        model: if given, the warnings name layers that would be left nearly empty.
        rules: the pruner's, for ``model``.
        granularity: the pruner's, for ``model``.

    Raises:
        ConfigurationError: no steps, a scheduler that depends on a metric, or a tensor of ``model``
            that the granularity cannot prune so far.

    >>> from billhook import Cubic
    >>> found = plan(Cubic(0.9, 100, 2_000, frequency=100), lambda t: 0.1 * 0.5 ** (t / 500), 1_500)
    >>> print(found.warnings[0])
    the run ends after 1500 steps at sparsity 88.36%; end_step is 2000, so the last 5 of 20 mask \
updates never fire
    >>> print(found.suggestion)
    suggested: begin_step=100, end_step=900: there 15% to 81% of the run's learning (the sum of \
its learning rates) is done, so weights have settled and can still recover
    """
    if steps < 1:
        raise ConfigurationError(
            f"steps {steps} is not the length of a training run: give its number of optimizer steps"
        )
    rates = tuple(_rates(learning_rate, steps))
    found = [*_window_faults(schedule, steps), *_rate_faults(schedule, rates)]
    if model is not None:
        found += _empty_layers(model, rules, schedule.final_sparsity, granularity)
    return Plan(schedule, rates, tuple(found), _suggest(schedule, rates))


def _rates(source: LRScheduler | Callable[[int], float] | float, steps: int) -> list[float]:
    if isinstance(source, ReduceLROnPlateau):
        raise ConfigurationError(
            "ReduceLROnPlateau depends on a metric that a dry run does not have: pass a function "
            "of the step that says when you expect it to fall"
        )
    if not isinstance(source, LRScheduler):
        return [float(source(step) if callable(source) else source) for step in range(steps)]
    with _undone(source), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stepping without the optimizer is the point
        rates = []
        for _ in range(steps):
            rates.append(float(source.get_last_lr()[0]))
            source.step()
        return rates


@contextlib.contextmanager
def _undone(scheduler: LRScheduler) -> Iterator[None]:
    """Leave the scheduler and its optimizer's settings as they were."""
    state = copy.deepcopy(scheduler.state_dict())
    groups = [
        {k: v for k, v in g.items() if k != "params"} for g in scheduler.optimizer.param_groups
    ]
    try:
        yield
    finally:
        scheduler.load_state_dict(state)
        for group, before in zip(scheduler.optimizer.param_groups, groups, strict=True):
            group.update(before)


def _window_faults(schedule: Schedule, steps: int) -> Iterator[str]:
    late = sum(step > steps for step in schedule.updates)
    if schedule.begin_step > steps:
        yield f"no mask update fires: begin_step {schedule.begin_step} is beyond the {steps} steps"
    elif late:
        yield (
            f"the run ends after {steps} steps at sparsity {schedule(steps):.2%}; end_step is "
            f"{schedule.end_step}, so the last {late} of {len(schedule.updates)} mask updates "
            "never fire"
        )


def _rate_faults(schedule: Schedule, rates: tuple[float, ...]) -> Iterator[str]:
    peak, steps = max(rates), len(rates)
    inside = [step for step in schedule.updates if step < steps]
    slow = [step for step in inside if rates[step] < RECOVERY_RATE * peak]
    if slow:
        yield (
            f"{len(slow)} mask updates from step {slow[0]} on fall where the learning rate is "
            f"below {RECOVERY_RATE:.0%} of its peak {peak:.3g}: too small to recover; end earlier"
        )
    yield from _off_peak(inside, rates)
    left = sum(rates[schedule.end_step :]) / (sum(rates) or 1.0)
    if schedule.end_step <= steps and left < RECOVERY_SHARE:
        yield (
            f"after end_step {schedule.end_step} only {left:.1%} of the run's learning (the sum of "
            "its learning rates) is left to recover: end earlier"
        )
    warm_up = rates.index(peak)
    if 0 < schedule.begin_step < warm_up:
        yield (
            f"pruning begins at step {schedule.begin_step}, while the learning rate still rises to "
            f"its peak at step {warm_up}: the weights have not settled; begin later"
        )


def _off_peak(updates: list[int], rates: tuple[float, ...]) -> Iterator[str]:
    """Of a learning rate in cycles: updates that fall where it is low."""
    starts = [t for t in range(1, len(rates)) if rates[t] > 1.5 * rates[t - 1] > 0]
    if len(starts) < 2:
        return
    bounds = [0, *starts, len(rates)]
    low = [
        step
        for first, end in itertools.pairwise(bounds)
        for step in updates
        if first <= step < end and rates[step] < OFF_PEAK * max(rates[first:end])
    ]
    if low:
        yield (
            f"the learning rate runs in cycles, and {len(low)} of {len(updates)} mask updates, "
            f"from step {low[0]} on, fall where it is below {OFF_PEAK:.0%} of its cycle's peak: "
            "the weights recover best right after a peak, so put the updates on the starts of "
            f"cycles, such as steps {starts[0]} and {starts[1]}"
        )


def _empty_layers(
    model: nn.Module, rules: Rules | None, default: float, granularity: Granularity
) -> Iterator[str]:
    for weight, target in select_weights(model, rules, default).pruned:
        message = fewer_weights_than_rows(weight, target, granularity)
        if message is not None:
            yield message


def _suggest(schedule: Schedule, rates: tuple[float, ...]) -> str:
    total, done = sum(rates), 0.0
    if total <= 0:
        return "no window can be suggested: the learning rate is zero throughout"
    shares = [0.0]
    for rate in rates:
        done += rate
        shares.append(done / total)
    begin = next(step for step, share in enumerate(shares) if share >= SUGGESTED[0])
    end = next(step for step, share in enumerate(shares) if share >= SUGGESTED[1])
    begin = -(-begin // schedule.interval) * schedule.interval
    end = begin + max(1, round((end - begin) / schedule.interval)) * schedule.interval
    if end > len(rates):
        return (
            f"no window can be suggested with frequency {schedule.interval}: the run has "
            f"{len(rates)} steps; lower the frequency"
        )
    return (
        f"suggested: begin_step={begin}, end_step={end}: there {shares[begin]:.0%} to "
        f"{shares[end]:.0%} of the run's learning (the sum of its learning rates) is done, so "
        "weights have settled and can still recover"
    )
