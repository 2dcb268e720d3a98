"""Read across: the factor of the straight line, an interval that covers, open ends that say so."""

import math

import numpy as np
import pytest

from billhook.study.analysis.comparison import Design
from billhook.study.analysis.equal_metric import Reading, read_across
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.records.rows import RunRow
from billhook.tasks.digits import Digits
from tests.study.outcomes import row

ACCURACY, CROSS_ENTROPY = Digits.metrics
WELCH = Design(paired=False)
NOISE = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])


def reading(sparse: np.ndarray, noise: np.ndarray = NOISE) -> Reading:
    """Against dense means 0.80, 0.86, 0.90 at 1, 2 and 8 kB, of a sparse file of 2 kB."""
    rows: list[RunRow] = []
    for arm, size, mean in ((DENSE, 1_000, 0.80), (DENSE, 2_000, 0.86), (LARGE, 8_000, 0.90)):
        rows += [row(arm, size, i, {"accuracy": mean + x}) for i, x in enumerate(noise)]
    rows += [row(SPARSE, 2_000, i, {"accuracy": x}, sparsity=0.8) for i, x in enumerate(sparse)]
    (found,) = read_across(rows, ACCURACY, WELCH, scheme="standard")
    return found


def test_factor_is_on_the_line_over_log_bytes() -> None:
    found = reading(0.88 + NOISE)  # halfway from 2 to 8 kB, that is at 4
    assert found.factor == pytest.approx(2.0, rel=0.01)
    assert 1.0 < found.low < 2.0 < found.high < 4.0


def test_beyond_what_was_measured_the_ends_are_open() -> None:
    better, worse = reading(0.95 + NOISE), reading(0.70 + NOISE)
    assert better.low == pytest.approx(4.0)
    assert better.factor == better.high == math.inf
    assert worse.high == pytest.approx(0.5)
    assert worse.factor == worse.low == 0.0
    level = reading(0.90 + NOISE)
    assert level.high == math.inf
    assert 2.0 < level.low < 4.0


def test_few_seeds_have_no_interval() -> None:
    found = reading(0.88 + NOISE[1:4], NOISE[1:4])
    assert found.factor == pytest.approx(2.0, rel=0.01)
    assert not found.claimed
    assert math.isnan(found.low)


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        noise, other = generator.normal(0, 0.004, (2, 5))
        found = reading(0.88 + other, noise)
        covered.append(found.low <= 2.0 * 1.01 and found.high >= 2.0 * 0.99)
    assert np.mean(covered) > 0.91
