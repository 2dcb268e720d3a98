"""The words follow the intervals: a winner only where the numbers support one, and which arm."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from billhook.errors import FormatError
from billhook.study.analysis.comparison import Comparison, Design, compare, contrast, crossovers
from billhook.study.analysis.findings import find
from billhook.study.analysis.statistics import log_weights
from billhook.study.analysis.verdict import advice, at_point, headline, lead, verdict
from billhook.study.grid import DENSE, SPARSE, plan
from billhook.study.records.rows import RunRow
from billhook.study.spec import Study
from billhook.tasks.digits import Digits
from billhook.tasks.task import Metric
from tests.study.outcomes import outcome

ACCURACY, CROSS_ENTROPY = Digits.metrics
SEEDS = (0, 1, 2, 3, 4)
PAIRED, WELCH = Design(paired=True), Design(paired=False)
CLEAR, NOISY = (0.018, 0.019, 0.02, 0.021, 0.022), (-0.04, 0.05, -0.03, 0.04, 0.01)


def study_of(tiny: Study, widths: tuple[int, ...]) -> Study:
    update = {"seeds": SEEDS, "small_widths": widths, "learning_rates": (0.01,)}
    return tiny.model_copy(update=update)


def rows_with(study: Study, differences: Sequence[Sequence[float]], metric: Metric) -> list[RunRow]:
    """Rows in which sparse minus dense is the given difference, by point and seed."""
    grid = plan(study)
    place = {point.dense_bytes: i for i, point in enumerate(grid.points)}
    rows = []
    for trial in grid.trials:
        base = 0.8 + 0.01 * trial.seed
        gain = differences[place[trial.point]][trial.seed] if trial.arm == SPARSE else 0.0
        scores = {m.name: base + (gain if m == metric else 0.0) for m in (ACCURACY, CROSS_ENTROPY)}
        rows.append(RunRow.of(trial, outcome(scores, trial.point), scores))
    return rows


def comparisons_with(
    tiny: Study, differences: Sequence[Sequence[float]], metric: Metric = ACCURACY
) -> list[Comparison]:
    study = study_of(tiny, (12, 16, 24)[: len(differences)])
    return compare(rows_with(study, differences, metric), metric, PAIRED, scheme="standard")


def test_a_clear_difference_has_a_winner_whose_numbers_are_said(tiny: Study) -> None:
    (comparison,) = comparisons_with(tiny, [CLEAR])
    assert comparison.difference.winner == SPARSE
    assert at_point(comparison) == (
        f"at {comparison.point:,} bytes large-sparse wins by 2.00 points "
        "(95% interval 1.80 to 2.20, 5 seeds)"
    )


@pytest.mark.parametrize("differences", [CLEAR, NOISY])
def test_a_metric_without_a_unit_is_said_without_one(
    tiny: Study, differences: Sequence[float]
) -> None:
    pure = dataclasses.replace(ACCURACY, scale=1.0, unit="")
    said = at_point(comparisons_with(tiny, [differences], pure)[0])
    assert "  " not in said
    assert "points" not in said


def test_the_sign_and_the_metric_decide_who_wins(tiny: Study) -> None:
    less = [-x for x in CLEAR]
    assert comparisons_with(tiny, [less])[0].difference.winner == DENSE
    assert comparisons_with(tiny, [CLEAR], CROSS_ENTROPY)[0].difference.winner == DENSE
    assert comparisons_with(tiny, [less], CROSS_ENTROPY)[0].difference.winner == SPARSE
    words = at_point(comparisons_with(tiny, [less])[0])
    assert "small-dense wins by 2.00 points (95% interval 1.80 to 2.20" in words


def test_an_interval_that_holds_zero_is_undecided(tiny: Study) -> None:
    (comparison,) = comparisons_with(tiny, [NOISY])
    assert comparison.difference.interval.low < 0 < comparison.difference.interval.high
    assert comparison.difference.winner is None
    assert "undecided: large-sparse minus small-dense is +0.60 points" in at_point(comparison)


def test_holm_can_leave_undecided_what_an_interval_alone_would_not(tiny: Study) -> None:
    middling = (0.001, 0.02, 0.03, 0.012, 0.01)
    single = comparisons_with(tiny, [middling])[0]
    assert single.difference.winner == SPARSE
    among = comparisons_with(tiny, [middling, NOISY, NOISY])[0]
    assert among.difference.interval == single.difference.interval
    assert among.difference.winner is None
    assert "undecided after Holm's correction" in at_point(among)


def test_words_and_numbers_agree_for_any_differences(tiny: Study) -> None:
    sets = [CLEAR, NOISY, [-x for x in CLEAR], [0.0] * 5]
    for differences in itertools.permutations(sets, 3):
        for comparison in comparisons_with(tiny, differences):
            words, low = at_point(comparison), comparison.difference.interval.low
            if comparison.difference.winner is None:
                assert "undecided" in words
            else:
                assert f"{comparison.difference.winner} wins" in words
                assert low > 0 or comparison.difference.interval.high < 0
                assert (low > 0) == (comparison.difference.winner == SPARSE)


def test_headline_counts(tiny: Study) -> None:
    less = [-x for x in CLEAR]
    assert headline(comparisons_with(tiny, [less, NOISY, CLEAR])) == (
        "accuracy: large-sparse wins at 1 of 3 sizes, small-dense at 1, 1 undecided"
    )
    noisy = [NOISY, NOISY]
    assert headline(comparisons_with(tiny, noisy)) == "accuracy: undecided at each of 2 sizes"


def test_the_only_size_is_said_once(tiny: Study) -> None:
    rows = rows_with(study_of(tiny, (12,)), [CLEAR], ACCURACY)
    (comparison,) = compare(rows, ACCURACY, PAIRED, scheme="standard")
    lines = verdict(find(rows, ACCURACY, PAIRED, 0.01, "standard"))
    assert lines[0] == f"accuracy: {at_point(comparison)}"
    assert lines[1] == (
        f"what to do: for a file of {comparison.point:,} bytes prune the large network "
        f"({comparison.sparsity:.1%} zeros)"
    )
    assert sum("bytes" in line for line in lines) == 2


def test_what_to_do_follows_the_winners_and_joins_neighbours(tiny: Study) -> None:
    less = [-x for x in CLEAR]
    assert [
        part.split("(")[0]
        for part in advice(comparisons_with(tiny, [less, NOISY, CLEAR])).split("; ")
    ] == [
        "what to do: for a file of 4,960 bytes train a small dense network ",
        "for a file of 6,624 bytes either will do, no difference is shown",
        "for a file of 10,336 bytes prune the large network ",
    ]
    together = advice(comparisons_with(tiny, [CLEAR, CLEAR, CLEAR]))
    assert together.startswith("what to do: from 4,960 to 10,336 bytes prune the large network (")
    few = tiny.model_copy(
        update={"seeds": (0, 1), "small_widths": (12,), "learning_rates": (0.01,)}
    )
    compared = compare(rows_with(few, [CLEAR], ACCURACY), ACCURACY, PAIRED, scheme="standard")
    assert advice(compared).startswith("what to do, by the means alone: for a file")


@pytest.mark.parametrize(("seeds", "count"), [((0,), "1 seed"), ((0, 1), "2 seeds")])
def test_few_seeds_are_a_demonstration(tiny: Study, seeds: tuple[int, ...], count: str) -> None:
    few = tiny.model_copy(update={"seeds": seeds, "small_widths": (12,), "learning_rates": (0.01,)})
    (compared,) = compare(rows_with(few, [CLEAR], ACCURACY), ACCURACY, PAIRED, scheme="standard")
    said = lead(compared.difference)
    assert said.endswith(f"({count}: a demonstration, no interval claimed)")


def test_equal_steps_and_equal_operations_stand_first_and_at_every_size(tiny: Study) -> None:
    study = study_of(tiny, (12, 16)).model_copy(update={"control": "every-size"})
    rows = rows_with(study, [CLEAR, CLEAR], ACCURACY)
    lines = verdict(find(rows, ACCURACY, PAIRED, 0.01, "standard"))
    assert lines[2].startswith("at equal steps, the mean over log-bytes from 4,960 to 6,624 bytes")
    assert lines[3].startswith("at equal operations, the small dense networks trained as many")
    assert lines[4].startswith("what to do if a small network may train as long as the large: from")
    assert sum(line.startswith("at equal operations at ") for line in lines) == 2


def test_crossover_lies_between_the_sizes_where_the_sign_changes(tiny: Study) -> None:
    comparisons = comparisons_with(tiny, [[-x for x in CLEAR], CLEAR, CLEAR])
    ((low, high, place),) = crossovers(comparisons)
    assert place**2 == pytest.approx(low.point * high.point)  # halfway on the log scale
    study = study_of(tiny, (12, 16, 24))
    rows = rows_with(study, [[-x for x in CLEAR], CLEAR, CLEAR], ACCURACY)
    words = " ".join(verdict(find(rows, ACCURACY, PAIRED, 0.01, "standard")))
    assert "from small-dense to large-sparse" in words
    assert crossovers(comparisons_with(tiny, [CLEAR, CLEAR])) == []


def test_rows_that_lack_a_seed_are_refused(tiny: Study) -> None:
    study = study_of(tiny, (12,))
    rows = [
        dataclasses.replace(row, chosen=(row.arm, row.seed) != (SPARSE, 3))
        for row in rows_with(study, [CLEAR], ACCURACY)
    ]
    with pytest.raises(FormatError, match=r"large-sparse at \d+ bytes lack .* seeds \[3\]"):
        compare(rows, ACCURACY, PAIRED, scheme="standard")


def test_few_seeds_claim_nothing(tiny: Study) -> None:
    study = study_of(tiny, (12,)).model_copy(update={"seeds": (0, 1)})
    rows = rows_with(study, [CLEAR], ACCURACY)
    words = verdict(find(rows, ACCURACY, PAIRED, 0.01, "standard"))
    assert "demonstration, no interval claimed" in words[0]
    assert not any("wins" in line or "95%" in line for line in words)
    (comparison,) = compare(rows, ACCURACY, PAIRED, scheme="standard")
    assert comparison.difference.winner is None
    assert (comparison.dense.low, comparison.dense.high) == pytest.approx((0.8, 0.81))  # the range


def test_the_contrast_is_the_mean_over_log_bytes_compared_by_seed(tiny: Study) -> None:
    study = study_of(tiny, (12, 16, 24))
    rows = rows_with(study, [NOISY, CLEAR, CLEAR], ACCURACY)
    points = [c.point for c in compare(rows, ACCURACY, PAIRED, scheme="standard")]
    weights = np.array(log_weights(points))
    averages = weights @ np.array([NOISY, CLEAR, CLEAR])
    expected = stats.ttest_1samp(averages, 0.0)
    found = contrast(rows, ACCURACY, PAIRED, scheme="standard")
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval.mean == pytest.approx(averages.mean())
    base = np.array([0.8 + 0.01 * seed for seed in SEEDS])
    unpaired = contrast(rows, ACCURACY, WELCH, scheme="standard")
    assert unpaired is not None
    assert unpaired.p == pytest.approx(
        stats.ttest_ind(base + averages, base, equal_var=False).pvalue
    )


def test_failed_seeds_are_left_out_and_a_lost_one_is_refused(tiny: Study) -> None:
    study = study_of(tiny, (12,))
    rows = [
        dataclasses.replace(row, chosen=False, test={}, failure="the loss is nan")
        if (row.arm, row.seed) == (SPARSE, 3)
        else row
        for row in rows_with(study, [CLEAR], ACCURACY)
    ]
    (comparison,) = compare(rows, ACCURACY, PAIRED, scheme="standard")
    assert comparison.difference.seeds == 4
