"""Choose by validation data, then open the test data, once."""

from collections import defaultdict
from collections.abc import Sequence

from billhook.study.family import Place
from billhook.study.grid import Plan, Trial
from billhook.study.rows import Row
from billhook.study.store import Store
from billhook.study.trial import Outcome, measure_test

__all__ = ["chosen_trials", "score"]


def chosen_trials(plan: Plan, outcomes: Sequence[Outcome]) -> list[Trial]:
    """For every arm, point and seed the trial best by ``choose_by`` on that seed's validation data.

    Each seed chooses for itself, so its test examples had no part in any choice that concerns it.
    Of equal trials the one of the lower learning rate, then of less dropout, is taken.
    """
    metric = plan.study.measured(plan.study.choose_by)
    sign = -1.0 if metric.higher_is_better else 1.0
    groups = defaultdict(list)
    for trial, outcome in zip(plan.trials, outcomes, strict=True):
        loss = sign * outcome.validation[metric.name]
        groups[trial.group].append((loss, trial.learning_rate, trial.dropout or 0.0, trial))
    return [min(group, key=lambda entry: entry[:3])[3] for group in groups.values()]


def score(plan: Plan, store: Store, place: Place = Place()) -> list[Row]:
    """The rows of a study whose trials are all finished, in the plan's order.

    The chosen networks are read back from their files and evaluated on their seed's test examples.
    """
    outcomes = [store.outcome(trial) for trial in plan.trials]
    chosen = {trial.identity for trial in chosen_trials(plan, outcomes)}
    rows = []
    for trial, outcome in zip(plan.trials, outcomes, strict=True):
        test = None
        if trial.identity in chosen:
            test = measure_test(trial, store.run_folder(trial), place)
        rows.append(Row.of(trial, outcome, test))
    return rows
