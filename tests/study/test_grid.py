"""A trial's identity is its configuration; both arms get the same number of trials."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE, plan
from billhook.study.records.reading import read_table
from billhook.study.spec import Study, load_study


def changed(study: Study, **values: Any) -> Study:
    return Study.model_validate(study.model_dump() | values)


def test_arms_have_equal_chances(tiny: Study) -> None:
    wide = changed(tiny, small_widths=(12, 16, 24), schemes=("standard", "global"), control=True)
    trials = plan(wide).trials
    per_group = Counter(trial.group for trial in trials)
    assert set(per_group.values()) == {len(wide.learning_rates)}
    groups = Counter(arm for arm, *_ in per_group)
    assert groups == {DENSE: 6, SPARSE: 12, LARGE: 2, LONGER: 2}


def test_the_control_takes_as_many_operations_as_the_large_network(tiny: Study) -> None:
    trials = {trial.arm: trial for trial in plan(changed(tiny, control=True)).trials}
    large, small, longer = trials[LARGE], trials[DENSE], trials[LONGER]
    weights = {12: 12 * (64 + 12 + 10), 64: 64 * (64 + 64 + 10)}
    assert small.training_operations == 3 * weights[12] * 60 * 32
    assert large.training_operations == 3 * weights[64] * 60 * 32
    assert longer.recipe.training.steps == longer.steps == round(60 * weights[64] / weights[12])
    assert abs(longer.training_operations - large.training_operations) < 3 * weights[12] * 32


def test_a_control_at_every_size_comes_after_everything_else(tiny: Study) -> None:
    study = changed(tiny, small_widths=(12, 16, 24), control="every-size")
    trials = plan(study).trials
    assert len(trials) == study.runs
    arms = [trial.arm for trial in trials]
    first = arms.index(LONGER)
    assert set(arms[first:]) == {LONGER}
    assert LONGER not in arms[:first]
    large = next(trial for trial in trials if trial.arm == LARGE).training_operations
    sizes = {t.point: t.training_operations for t in trials if t.arm == LONGER}
    assert set(sizes) == {trial.point for trial in trials if trial.arm == DENSE}
    assert all(abs(each - large) / large < 0.01 for each in sizes.values())


def test_identity_is_the_configuration(tiny: Study) -> None:
    trials = plan(tiny).trials
    assert len({trial.identity for trial in trials}) == len(trials)
    assert [t.identity for t in plan(tiny).trials] == [t.identity for t in trials]
    longer = changed(tiny, recipe=tiny.recipe.changed(training={"steps": 61}))
    others = plan(longer).trials
    assert {t.identity for t in others}.isdisjoint(t.identity for t in trials)


def test_more_seeds_or_rates_keep_the_runs_there_are(tiny: Study) -> None:
    more = plan(changed(tiny, seeds=(0, 1, 2), learning_rates=(0.01, 0.02, 0.03))).trials
    assert {t.identity for t in plan(tiny).trials} < {t.identity for t in more}


def test_variants_change_the_pruning_of_the_sparse_arm_alone(tiny: Study) -> None:
    variants = ({"curve": "one-shot"}, {"frequency": 5, "end": 0.5})
    trials = plan(changed(tiny, variants=variants)).trials
    found = {trial.variant: trial for trial in trials if trial.arm == SPARSE}
    assert list(found) == ["", "curve=one-shot", "frequency=5,end=0.5"]
    assert found["frequency=5,end=0.5"].recipe.pruning.frequency == 5
    assert {trial.variant for trial in trials if trial.arm != SPARSE} == {""}
    assert len({trial.expected_bytes for trial in found.values()}) == 1


def test_canonical_configuration_does_not_drift(tiny: Study) -> None:
    """A change here orphans the runs that users have: raise the version when it is meant."""
    trial = next(t for t in plan(tiny).trials if t.arm == SPARSE)
    assert sorted(json.loads(trial.canonical)) == [
        *("arm", "codings", "dropout", "expected_bytes", "expected_nonzero", "family", "found"),
        *("kind", "learning_rate", "point", "recipe", "scheme", "seed", "sparsity", "steps"),
        *("variant", "width"),
    ]
    assert trial.identity.startswith(f"large-sparse-{trial.point}B-seed0-lr0.01-")


def test_the_runs_of_the_committed_digits_study_keep_their_identities() -> None:
    rows = read_table(Path(__file__).parents[2] / "results" / "digits" / "rows.csv")
    planned = [trial.identity for trial in plan(load_study("digits")).trials]
    assert planned == [row["run"] for row in rows]
