"""The entropy coder against the floor of a Bernoulli mask, and below it where densities differ."""

import numpy as np
import pytest

from billhook.format.entropy import Entropy, mask_floor_bits
from billhook.format.relative_index import RelativeIndex


def index_bytes(mask: np.ndarray) -> int:
    elements = mask.astype("<u4")
    return Entropy().measure(elements, int(np.count_nonzero(mask))).index_bytes


@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.75, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("shape", [(1024, 1024), (100_000,), (256, 128, 3, 3), (10_000, 20)])
def test_a_random_mask_costs_at_most_2_percent_more_than_its_floor(
    sparsity: float, shape: tuple[int, ...]
) -> None:
    mask = np.random.default_rng(0).random(shape) >= sparsity
    floor = mask_floor_bits(mask.size, int(np.count_nonzero(mask))) / 8
    assert index_bytes(mask) <= 1.02 * floor


@pytest.mark.parametrize("axes", ["rows", "columns", "both"])
def test_unequal_rows_and_columns_cost_what_their_own_densities_do(axes: str) -> None:
    rng = np.random.default_rng(0)
    odds = np.full((1024, 1024), -2.2)
    if axes != "columns":
        odds += rng.normal(0, 1, (1024, 1))
    if axes != "rows":
        odds += rng.normal(0, 1, (1, 1024))
    p = 1 / (1 + np.exp(-odds))
    mask = rng.random(p.shape) < p
    own = float(-(np.where(mask, np.log2(p), np.log2(1 - p))).sum()) / 8
    floor = mask_floor_bits(mask.size, int(np.count_nonzero(mask))) / 8
    assert index_bytes(mask) <= 1.03 * own
    assert index_bytes(mask) <= 0.92 * floor


@pytest.mark.parametrize("bits", range(2, 9))
def test_relative_index_padding_equals_a_walk_over_the_elements(bits: int) -> None:
    mask = np.random.default_rng(bits).random(20_000) < 0.03
    padding = gap = 0
    for stored in mask:
        if stored:
            gap = 0
        elif gap == (1 << bits) - 1:
            padding, gap = padding + 1, 0
        else:
            gap += 1
    nnz = int(np.count_nonzero(mask))
    layout = RelativeIndex(bits).measure(mask.astype("<u4"), nnz)
    assert layout.values == nnz + padding
    assert layout.index_bytes == (layout.values * bits + 7) // 8


def test_the_best_bits_of_a_gap_are_found_by_counting() -> None:
    for density in (0.5, 0.25, 0.1, 0.03, 0.005):
        elements = (np.random.default_rng(1).random(100_000) < density).astype("<u4")
        nnz = int(np.count_nonzero(elements))
        sizes = {b: RelativeIndex(b).measure(elements, nnz).nbytes(4) for b in range(2, 9)}
        assert RelativeIndex().measure(elements, nnz).nbytes(4) == min(sizes.values())
