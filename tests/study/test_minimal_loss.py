"""Minimal loss is non-inferiority, tested in a fixed order: scipy's interval decides."""

import numpy as np
import pytest
from scipy import stats

from billhook.study.analysis.comparison import Design
from billhook.study.analysis.minimal_loss import largest_at_minimal_loss, losses
from billhook.study.grid import LARGE, SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.digits import Digits
from tests.study.outcomes import row

ACCURACY, CROSS_ENTROPY = Digits.metrics
WELCH = Design(paired=False)
NOISE = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])


def rows_at(sparse: dict[float, float], name: str = "accuracy") -> list[RunRow]:
    """A dense mean of 0.9 and a mean for each sparsity."""
    rows = [row(LARGE, 9_000, seed, {name: 0.9 + noise}) for seed, noise in enumerate(NOISE)]
    for sparsity, mean in sparse.items():
        point = round(9_000 * (1 - sparsity))
        for seed, noise in enumerate(NOISE[::-1]):
            rows.append(row(SPARSE, point, seed, {name: mean + noise}, sparsity=sparsity))
    return rows


def test_slack_is_the_interval_to_the_margin() -> None:
    (loss,) = losses(rows_at({0.5: 0.894}), ACCURACY, WELCH, 0.01, scheme="standard")
    expected = stats.ttest_ind(0.894 + NOISE, 0.99 * (0.9 + NOISE), equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert (loss.slack.low, loss.slack.high) == pytest.approx((ends.low, ends.high))
    assert loss.within
    (loss,) = losses(rows_at({0.5: 0.892}), ACCURACY, WELCH, 0.01, scheme="standard")
    assert loss.slack.mean > 0
    assert not loss.within  # the mean is, its interval is not


def test_the_metric_says_which_side_is_a_loss() -> None:
    name = CROSS_ENTROPY.name
    for mean, within in ((0.85, True), (0.9, True), (0.95, False)):
        rows = rows_at({0.5: mean}, name)
        (loss,) = losses(rows, CROSS_ENTROPY, WELCH, 0.01, scheme="standard")
        assert loss.within == within


def test_the_first_failure_ends_the_search() -> None:
    means = {0.5: 0.9, 0.75: 0.899, 0.9: 0.85, 0.95: 0.9}
    found = losses(rows_at(means), ACCURACY, WELCH, 0.01, scheme="standard")
    best = largest_at_minimal_loss(found)
    assert best is not None
    assert best.sparsity == 0.75
    assert best.reduction == pytest.approx(4.0)
    assert largest_at_minimal_loss(found[2:]) is None
