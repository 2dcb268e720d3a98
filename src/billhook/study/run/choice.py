"""Choose by validation data, then open the test data, once."""

import dataclasses
from collections.abc import Sequence

from billhook.study.grid import Plan, Trial
from billhook.study.records.outcome import Outcome
from billhook.study.records.rows import RunRow
from billhook.study.records.store import Store
from billhook.tasks.task import Metric

__all__ = ["Group", "groups"]


@dataclasses.dataclass(frozen=True)
class Group:
    """The trials of one arm, scheme, variant, point and seed, of which validation data choose one.

    Each seed chooses for itself, so its test examples had no part in any choice that concerns it,
    or the first seed chooses for all, which then have one trial (:func:`groups`).
    """

    trials: tuple[Trial, ...]
    choose_by: Metric

    def best(self, outcomes: Sequence[Outcome | None]) -> Trial | None:
        """The trial best by ``choose_by`` on its seed's validation data.

        Of equal trials the one of the lower learning rate, then of less dropout. A failed trial
        (None) is not chosen; where all failed, none is.
        """
        name, sign = self.choose_by.name, -1.0 if self.choose_by.higher_is_better else 1.0
        found = [
            (sign * outcome.validation[name], trial.learning_rate, trial.dropout or 0.0, trial)
            for trial, outcome in zip(self.trials, outcomes, strict=True)
            if outcome is not None
        ]
        return min(found, key=lambda entry: entry[:3])[3] if found else None

    def missing(self, store: Store) -> tuple[Trial, ...]:
        """What still needs a process: unsettled trials; when there are none, the chosen one until
        it is measured on test data."""
        unsettled = tuple(trial for trial in self.trials if not store.settled(trial))
        if unsettled:
            return unsettled
        chosen = self._chosen(store)
        return () if chosen is None or store.test(chosen) is not None else (chosen,)

    def untested(self, store: Store) -> Trial | None:
        """The chosen trial if all are settled and it is not measured on test data yet."""
        missing = self.missing(store)
        return missing[0] if missing and store.settled(missing[0]) else None

    def recorded(self, store: Store) -> bool:
        """Whether every trial has its row."""
        rows = store.records.by_run()
        return all(trial.identity in rows for trial in self.trials)

    def rows(self, store: Store) -> list[RunRow]:
        """Their rows, once nothing is missing."""
        chosen = self._chosen(store)
        return [
            RunRow.of(
                trial,
                store.outcome(trial),
                store.test(trial) if trial == chosen else None,
                store.failure(trial) or "",
            )
            for trial in self.trials
        ]

    def following(self, leader: "Group", store: Store) -> "Group | None":
        """Only the trial with the setting that ``leader`` chose, None before it has.

        One that is recorded stays, also if a retried run changes that choice afterwards.
        """
        rows = store.records.by_run()
        kept = tuple(trial for trial in self.trials if trial.identity in rows)
        if not kept and all(store.settled(trial) for trial in leader.trials):
            chosen = leader._chosen(store)
            kept = tuple(t for t in self.trials if chosen and t.setting == chosen.setting)
        return dataclasses.replace(self, trials=kept) if kept else None

    def _chosen(self, store: Store) -> Trial | None:
        return self.best([store.outcome(trial) for trial in self.trials])


def groups(plan: Plan, store: Store) -> list[Group]:
    """The groups of a plan whose trials are known by now, in the order of their first trials.

    All of them, unless the first seed chooses for the others: a group of another seed is known once
    the first seed's trials of the same arm and point are settled, and then has one trial.
    """
    found: dict[tuple[str, str, str, int, int], list[Trial]] = {}
    for trial in plan.trials:
        found.setdefault(trial.group, []).append(trial)
    choose_by = plan.study.measured(plan.study.choose_by)
    every = {key: Group(tuple(trials), choose_by) for key, trials in found.items()}
    if plan.study.tune == "each-seed":
        return list(every.values())
    known = []
    for key, group in every.items():
        leader = every[(*key[:-1], plan.study.seeds[0])]
        open_now = group if group is leader else group.following(leader, store)
        if open_now is not None:
            known.append(open_now)
    return known
