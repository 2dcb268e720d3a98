"""A trial's identity is its configuration; both arms get the same number of trials."""

import json
from collections import Counter

from billhook.study.grid import DENSE, LARGE, SPARSE, plan
from billhook.study.spec import Study


def test_arms_have_equal_chances(tiny: Study) -> None:
    wide = tiny.model_copy(update={"small_widths": (12, 16, 24)})
    trials = plan(wide).trials
    per_group = Counter(trial.group for trial in trials)
    assert set(per_group.values()) == {len(wide.training.learning_rates)}
    assert Counter(arm for arm, *_ in per_group) == {DENSE: 6, SPARSE: 6, LARGE: 2}


def test_identity_is_the_configuration(tiny: Study) -> None:
    trials = plan(tiny).trials
    assert len({trial.identity for trial in trials}) == len(trials)
    assert [t.identity for t in plan(tiny).trials] == [t.identity for t in trials]
    longer = tiny.training.model_copy(update={"steps": 61})
    others = plan(tiny.model_copy(update={"training": longer})).trials
    assert {t.identity for t in others}.isdisjoint(t.identity for t in trials)


def test_more_seeds_or_rates_keep_the_runs_there_are(tiny: Study) -> None:
    rates = tiny.training.model_copy(update={"learning_rates": (0.01, 0.02, 0.03)})
    more = plan(tiny.model_copy(update={"seeds": (0, 1, 2), "training": rates})).trials
    assert {t.identity for t in plan(tiny).trials} < {t.identity for t in more}


def test_canonical_configuration_does_not_drift(tiny: Study) -> None:
    """A change here orphans the runs that users have: raise the version when it is meant."""
    trial = next(t for t in plan(tiny).trials if t.arm == SPARSE)
    assert sorted(json.loads(trial.canonical)) == [
        "arm",
        "data",
        "dropout",
        "family",
        "learning_rate",
        "point",
        "pruning",
        "scheme",
        "seed",
        "sparsity",
        "steps",
        "training",
        "variant",
        "width",
    ]
    assert trial.identity.startswith(f"large-sparse-{trial.point}B-seed0-lr0.01-")
