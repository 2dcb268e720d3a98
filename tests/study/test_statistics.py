"""Intervals and p-values equal scipy's, cover as often as they claim, and Holm holds its level."""

import numpy as np
import pytest
from scipy import stats

from billhook.errors import ConfigurationError
from billhook.study.analysis.statistics import (
    holm,
    log_weights,
    mean_of,
    paired,
    same_means,
    welch,
)

GENERATOR = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_interval_of_a_mean_equals_scipy(n: int, level: float) -> None:
    values = GENERATOR.normal(3.0, 2.0, n)
    interval = mean_of(values.tolist()).interval(level)
    expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)
    assert interval.mean == pytest.approx(values.mean(), rel=1e-12)


def test_same_means_equals_scipy_and_for_pairs_the_t_test() -> None:
    groups = [[1.0, 2.5, 2.0], [2.0, 3.0, 4.5], [9.0, 2.0, 1.0, 4.0]]
    assert same_means(groups) == pytest.approx(stats.f_oneway(*groups).pvalue)
    pair = [[1.0, 5.0, 9.0, 2.0], [1.5, 5.2, 9.9, 3.0]]
    assert same_means(pair, paired=True) == pytest.approx(stats.ttest_rel(*pair).pvalue)
    assert same_means([[1.0, 2.0], [1.0, 2.0]], paired=True) == 1.0
    assert same_means([[1.0, 2.0], [3.0, 4.0]], paired=True) == 0.0


@pytest.mark.parametrize("n", [2, 5, 10])
def test_paired_equals_scipy(n: int) -> None:
    a, b = GENERATOR.normal(size=(2, n))
    expected = stats.ttest_rel(a, b)
    estimate = paired(a.tolist(), b.tolist())
    assert estimate.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval, theirs = estimate.interval(), expected.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (5, 5), (3, 9)])
def test_welch_equals_scipy(n_a: int, n_b: int) -> None:
    """Other sizes and other spreads, where Student's pooled interval is another one."""
    a, b = GENERATOR.normal(1.0, 5.0, n_a), GENERATOR.normal(0.0, 1.0, n_b)
    expected = stats.ttest_ind(a, b, equal_var=False)
    estimate = welch(a.tolist(), b.tolist())
    assert estimate.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert estimate.freedom == pytest.approx(expected.df, rel=1e-9)
    interval, theirs = estimate.interval(0.9), expected.confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_pairing_takes_out_what_the_arms_share() -> None:
    """A seed's split is easy or hard for both arms: the paired interval is the narrower one."""
    split = GENERATOR.normal(0, 1.0, 10)
    dense, sparse = split.tolist(), (split + 0.1 + GENERATOR.normal(0, 0.05, 10)).tolist()
    assert paired(sparse, dense).p_value < 0.01
    assert welch(sparse, dense).p_value > 0.5


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of a mean, of pairs, and Welch's with a spread three times the other."""
    a = GENERATOR.normal(1.0, 3.0, (4_000, 5)).tolist()
    b = GENERATOR.normal(0.0, 1.0, (4_000, 5)).tolist()
    for estimates in (map(mean_of, a), map(paired, a, b), map(welch, a, b)):
        intervals = [estimate.interval() for estimate in estimates]
        covered = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
        assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4_000))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_holds_the_familywise_level() -> None:
    """Six true null hypotheses: one or more is called at 5% in at most 5% of the studies."""
    studies = GENERATOR.uniform(size=(4_000, 6)).tolist()
    wrong = np.mean([min(holm(study)) < 0.05 for study in studies])
    assert wrong < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4_000)


def test_weights_are_those_of_the_integral_over_log_bytes() -> None:
    sizes = [3_000.0, 4_100.0, 9_000.0, 40_000.0]
    values = GENERATOR.normal(size=4)
    logs = np.log(sizes)
    weighted = np.dot(log_weights(sizes), values)
    assert weighted == pytest.approx(np.trapezoid(values, logs) / (logs[-1] - logs[0]))
    assert sum(log_weights(sizes)) == pytest.approx(1.0)
    assert log_weights([5]) == [1.0]
    assert log_weights([5, 50]) == pytest.approx([0.5, 0.5])


def test_no_spread_is_the_limit_and_one_value_an_error() -> None:
    for estimate in (mean_of([2.0, 2.0]), welch([3.0, 3.0], [1.0, 1.0])):
        interval = estimate.interval()
        assert (interval.low, interval.mean, interval.high) == (2.0, 2.0, 2.0)
        assert estimate.p_value == 0.0
    assert paired([2.0, 2.0], [2.0, 2.0]).p_value == 1.0
    one_sided = welch([1.0, 3.0], [2.0, 2.0])  # the spread of one arm alone
    assert one_sided.freedom == pytest.approx(1.0)
    with pytest.raises(ConfigurationError, match="at least 2 seeds"):
        mean_of([1.0])
