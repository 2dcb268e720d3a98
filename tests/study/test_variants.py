"""What varying the pruning did: the words follow the numbers."""

import dataclasses
from collections.abc import Sequence

import pytest

from billhook.study.analysis.comparison import Design
from billhook.study.analysis.statistics import paired
from billhook.study.analysis.variants import against_own, variants, what_mattered
from billhook.study.grid import SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.digits import Digits
from tests.study.outcomes import row

ACCURACY = Digits.metrics[0]
NOISE = (0.0, 0.01, -0.01, 0.005, -0.005)


def rows(means: dict[str, float], seeds: int = 5) -> list[RunRow]:
    return [
        dataclasses.replace(
            row(SPARSE, 100, seed, {"accuracy": mean + NOISE[(seed + k) % 5]}, sparsity=0.9),
            variant=variant,
        )
        for k, (variant, mean) in enumerate(means.items())
        for seed in range(seeds)
    ]


def words(found: Sequence[RunRow], *, paired: bool = False) -> list[str]:
    (lines,) = what_mattered(variants(found, ACCURACY), ACCURACY, Design(paired=paired))
    return lines


@pytest.mark.parametrize("paired", [True, False])
def test_frequencies_that_differ_and_windows_that_do_not(*, paired: bool) -> None:
    head, frequency, window = words(
        rows(
            {
                "": 0.9,
                "frequency=10": 0.9,
                "frequency=1000": 0.8,
                "begin=0.1,end=0.2": 0.901,
                "begin=0.4,end=0.6": 0.899,
            }
        ),
        paired=paired,
    )
    assert head == "accuracy over the pruning schedule, 90% sparse in 100 bytes, standard scheme"
    assert "frequency: the means of 3 settings range over 10.00 points" in frequency
    assert "scatter by 0.79 (standard deviation); they differ (p =" in frequency
    assert window.startswith("begin and end: the means of 3 settings range over 0.20 points")
    assert "that they differ is not shown" in window


def test_few_seeds_say_no_more_than_the_range() -> None:
    _, line = words(rows({"": 0.9, "curve=linear": 0.7}, seeds=4))
    assert line.endswith("too few seeds to say more")


def test_a_study_without_variants_has_nothing_to_say() -> None:
    assert variants(rows({"": 0.9}), ACCURACY) == []
    assert what_mattered([], ACCURACY, Design(paired=True)) == []


def test_every_variant_stands_beside_the_recipes_own() -> None:
    found = variants(rows({"": 0.9, "curve=linear": 0.7, "criterion=fisher": 0.901}), ACCURACY)
    own, linear, fisher = against_own(found)
    assert own[1] is None
    assert linear[1] is not None
    assert linear[1].mean == pytest.approx(-0.2)
    assert linear[1].low < -0.2 < linear[1].high < 0.0
    pairs = [(linear[0].scores[seed], own[0].scores[seed]) for seed in range(5)]
    single = paired(*zip(*pairs, strict=True)).p_value
    assert linear[2] == pytest.approx(2 * single)  # Holm's of two
    assert fisher[1] is not None
    assert fisher[1].low < 0.0 < fisher[1].high
    assert fisher[2] > 0.05


def test_what_seeds_share_does_not_count() -> None:
    """Seeds that move all variants alike leave a difference that is the same for each of them."""
    found = [
        dataclasses.replace(each, test={"accuracy": each.test["accuracy"] + 0.1 * each.seed})
        for each in rows({"": 0.9, "curve=linear": 0.89})
    ]
    _, (_, difference, p) = against_own(variants(found, ACCURACY))
    assert difference is not None
    assert difference.high - difference.low < 0.04
    assert p > 0.05


def test_few_seeds_have_no_interval_beside_the_recipes_own() -> None:
    found = variants(rows({"": 0.9, "curve=linear": 0.7}, seeds=4), ACCURACY)
    assert [interval for _, interval, _ in against_own(found)] == [None, None]
