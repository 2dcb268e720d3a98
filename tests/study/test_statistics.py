"""Intervals and p-values equal scipy's, cover as often as they claim, and Holm holds its level."""

import numpy as np
import pytest
from scipy import stats

from billhook.errors import ConfigurationError
from billhook.study.statistics import holm, paired_p_value, resampling_factor, t_interval

GENERATOR = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_interval_equals_scipy(n: int, level: float) -> None:
    values = GENERATOR.normal(3.0, 2.0, n)
    interval = t_interval(values.tolist(), level)
    expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)
    assert interval.mean == pytest.approx(values.mean(), rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_p_value_equals_scipy(n: int) -> None:
    a, b = GENERATOR.normal(size=(2, n))
    assert paired_p_value((b - a).tolist()) == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-9)


def test_pairing_takes_out_what_the_arms_share() -> None:
    """A seed's split is easy or hard for both arms: the paired interval is the narrower one."""
    split = GENERATOR.normal(0, 1.0, 10)
    dense, sparse = split, split + 0.1 + GENERATOR.normal(0, 0.05, 10)
    assert paired_p_value((sparse - dense).tolist()) < 0.01
    assert stats.ttest_ind(sparse, dense).pvalue > 0.5


def test_interval_covers_as_often_as_it_says() -> None:
    samples = GENERATOR.normal(1.0, 3.0, (4_000, 10)).tolist()
    intervals = [t_interval(sample) for sample in samples]
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


def test_no_spread_is_the_limit_and_one_value_an_error() -> None:
    interval = t_interval([2.0, 2.0])
    assert (interval.low, interval.mean, interval.high) == (2.0, 2.0, 2.0)
    assert paired_p_value([0.0, 0.0]) == 1.0
    assert paired_p_value([2.0, 2.0]) == 0.0
    with pytest.raises(ConfigurationError, match="at least 2 seeds"):
        t_interval([1.0])


def test_correction_for_overlapping_splits() -> None:
    corrected = np.sqrt(1 / 10 + 537 / 900)
    assert resampling_factor(10, 900, 537) == pytest.approx(corrected / np.sqrt(1 / 10))
