"""At equal latency: interpolated dense scores, and which forms and networks count."""

import math

import pytest

from billhook.study.analysis.comparison import Design
from billhook.study.analysis.equal_latency import (
    FASTEST,
    AtLatency,
    EqualLatency,
    equal_latency,
    timed,
)
from billhook.study.analysis.latency_verdict import latency_verdict
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.records.latency import EAGER, FP32, INT8, Timing
from billhook.study.records.rows import RunRow
from billhook.tasks.task import Metric

METRIC = Metric("perplexity", higher_is_better=False, scale=1.0, unit="", digits=2)
SEEDS = range(5)
NOISE = (0.0, 0.01, -0.01, 0.02, -0.02)


def row(arm: str, width: float, point: int, seed: int, score: float, **changed: object) -> RunRow:
    values: dict[str, object] = {
        "arm": arm,
        "width": width,
        "point": point,
        "seed": seed,
        "sparsity": 0.9 if arm == SPARSE else 0.0,
        "scheme": "standard" if arm == SPARSE else "",
        "variant": "",
        "learning_rate": 0.1,
        "dropout": None,
        "steps": 10,
        "parameters": 10,
        "nonzero": 5,
        "bytes": point,
        "bytes_dense": 1,
        "bytes_bitmask": 1,
        "bytes_relative_index": 1,
        "bytes_entropy": 1,
        "training_operations": 1,
        "inference_operations": 1,
        "seconds": 1.0,
        "validation": {},
        "failure": "",
        "chosen": True,
        "test": {"perplexity": score + NOISE[seed]},
        **changed,
    }
    values["run"] = f"{arm}-{values['variant']}-{point}-{seed}"
    return RunRow(**values)  # type: ignore[arg-type]


def timing(of: RunRow, form: str, milliseconds: float, **test: float) -> Timing:
    return Timing(of.run, form, "1x64", milliseconds, "cpu", "a machine", "avx2", 1, "", test)


def study(
    networks: dict[tuple[str, float, int], tuple[float, float]], form: str = FP32
) -> tuple[list[RunRow], list[Timing]]:
    """Networks (arm, width, bytes) with their milliseconds and score, five seeds of each."""
    rows, timings = [], []
    for (arm, width, point), (milliseconds, score) in networks.items():
        for seed in SEEDS:
            rows.append(row(arm, width, point, seed, score))
            timings.append(timing(rows[-1], form, milliseconds))
    return rows, timings


def compared(rows: list[RunRow], timings: list[Timing], way: str = FP32) -> EqualLatency:
    found = equal_latency(timed(rows, timings, METRIC), METRIC, Design(paired=False))
    (one,) = (each for each in found if each.way == way)
    return one


def only(found: EqualLatency) -> AtLatency:
    (network,) = found.networks
    return network


DENSE_NETWORKS = {
    (DENSE, 8.0, 100): (1.0, 9.0),
    (DENSE, 16.0, 200): (2.0, 7.0),
    (LARGE, 64.0, 900): (8.0, 3.0),
}


def test_dense_scores_are_interpolated_over_log_milliseconds() -> None:
    network = only(compared(*study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (4.0, 4.0)})))
    assert network.dense is not None
    assert network.dense.mean == pytest.approx(5.0)  # halfway from 2 to 8 ms in logarithms
    assert network.difference is not None
    assert network.difference.interval.mean == pytest.approx(-1.0)
    assert network.difference.winner == SPARSE
    # The dense curve reaches 4.0 at three quarters of the way from 2 to 8 ms.
    assert network.reading is not None
    assert network.reading.factor == pytest.approx(2 * 4**0.75 / 4, rel=0.01)


def test_beyond_the_slowest_dense_network_that_one_counts() -> None:
    network = only(compared(*study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (16.0, 4.0)})))
    assert network.difference is not None
    assert network.difference.interval.mean == pytest.approx(1.0)
    assert network.difference.winner == DENSE


def test_where_no_dense_network_is_as_fast_nothing_is_claimed() -> None:
    found = compared(*study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (0.5, 4.0)}))
    assert only(found).difference is None
    assert found.contrast is None
    ((headline, *lines),) = latency_verdict([found], METRIC)
    assert "wins" not in lines[0]
    assert "at 1 no dense network is as fast" in headline


def test_a_dense_network_slower_than_a_wider_one_is_left_out() -> None:
    networks = {**DENSE_NETWORKS, (DENSE, 12.0, 150): (5.0, 99.0)}  # wider ones take 2 and 8 ms
    networks[DENSE, 12.0, 150] = (3.0, 99.0)
    plain = only(compared(*study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (2.5, 4.0)})))
    with_slow = only(compared(*study({**networks, (SPARSE, 64.0, 200): (2.5, 4.0)})))
    assert with_slow.dense == plain.dense


def test_each_form_has_its_own_metric_and_the_fastest_of_each_counts() -> None:
    rows, timings = study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (4.0, 4.0)})
    timings += [
        timing(
            each, INT8, 0.25 if each.arm == SPARSE else 0.1, perplexity=each.test["perplexity"] + 1
        )
        for each in rows
    ]
    timings += [timing(each, EAGER, 0.2) for each in rows if each.arm == LARGE]
    eight = only(compared(rows, timings, INT8))
    assert eight.sparse.score.mean == pytest.approx(5.0)
    assert eight.dense is not None
    assert eight.dense.mean == pytest.approx(4.0)  # the large one in 8 bits, as fast as the others
    fastest = only(compared(rows, timings, FASTEST))
    assert fastest.sparse.form == INT8
    assert fastest.sparse.milliseconds == 0.25


def test_the_contrast_is_the_mean_over_log_milliseconds() -> None:
    found = compared(
        *study({**DENSE_NETWORKS, (SPARSE, 64.0, 100): (2.0, 6.0), (SPARSE, 64.0, 200): (8.0, 4.0)})
    )
    assert [each.sparse.milliseconds for each in found.networks] == [2.0, 8.0]
    assert found.contrast is not None
    assert found.contrast.interval.mean == pytest.approx((-1.0 + 1.0) / 2)
    raw = [n.difference.p for n in found.networks if n.difference is not None]
    assert all(0 < p < 1 for p in raw)


def test_variants_of_the_pruning_are_compared_by_themselves() -> None:
    rows, timings = study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (4.0, 4.0)})
    for seed in SEEDS:
        rows.append(row(SPARSE, 64.0, 200, seed, 4.5, variant="granularity=block-1x4"))
        timings.append(timing(rows[-1], FP32, 3.0))
    found = equal_latency(timed(rows, timings, METRIC), METRIC, Design(paired=False))
    variants = [each.networks[0].sparse.row.variant for each in found if each.way == FP32]
    assert variants == ["", "granularity=block-1x4"]
    blocks = [each for each in found if each.way == FP32][1].networks[0]
    assert blocks.sparse.label == "large-sparse, granularity=block-1x4 90.0%"
    assert math.isclose(blocks.sparse.score.mean, 4.5)


def test_scores_of_all_seeds_count_where_a_form_computes_what_was_trained() -> None:
    rows, timings = study({**DENSE_NETWORKS, (SPARSE, 64.0, 200): (4.0, 4.0)})
    first = [each for each in timings if each.run.endswith("-0")]
    assert only(compared(rows, first)).sparse.scores == only(compared(rows, timings)).sparse.scores
    one = rows[-5]
    own = timed(rows, [*first, timing(one, INT8, 3.0, perplexity=4.5)], METRIC)
    assert {each.form: len(each.scores) for each in own if each.row.arm == SPARSE} == {
        FP32: 5,
        INT8: 1,
    }
