"""The linear kernels against the oracle."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook import native
from billhook.inference import isa, kernels
from billhook.inference.layers.linear import SparseLinear, SparseMatrix
from billhook.inference.weights.csr import to_csr
from billhook.inference.weights.lanes import to_lanes
from billhook.inference.weights.panels import CHUNK
from tests.inference import reference

from .strategies import assert_close, misaligned, sparse, values

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")
ISAS = [isa.index_of(name, "fp32") for name in reversed(isa.supported("fp32"))]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_linear_equals_the_oracle(data: st.DataObject) -> None:
    # Less than a chunk of rows and a block of columns, or several.
    rows = data.draw(st.integers(1, 70) | st.integers(CHUNK - 1, 2 * CHUNK + 9))
    columns = data.draw(st.integers(1, 90) | st.integers(700, 1300))
    samples = data.draw(st.sampled_from([1, 2, 7, 8, 9, 17, 33, 64, 65, 130]))
    weight = data.draw(sparse((rows, columns)))
    x = misaligned(data.draw(values((samples, columns))), data.draw(st.integers(0, 15)))
    bias = data.draw(st.none() | values((rows,)))
    with np.errstate(all="ignore"):
        wanted = reference.linear(
            x.astype(np.float64),
            weight.astype(np.float64),
            None if bias is None else bias.astype(np.float64),
        )
    for row in ISAS:
        for threads in (1, 2):
            matrix = SparseMatrix(torch.from_numpy(weight), bias, row)
            with torch_threads(threads):
                assert_close(matrix.multiply(torch.from_numpy(x)), wanted)


def test_a_set_without_fp32_kernels_runs_those_of_the_set_that_it_extends() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(70, 50) * (torch.rand(70, 50) < 0.2), torch.randn(20, 50)
    table = native.instruction_sets()
    results = [
        [SparseMatrix(weight, None, row).multiply(given) for given in (x, x[:1])]
        for row in range(len(table))
        if table[row].runs
    ]
    with_kernels = results[: len(ISAS)]
    for result in results[len(ISAS) :]:
        assert any(all(map(torch.equal, result, other)) for other in with_kernels)


@pytest.mark.parametrize("row", ISAS)
@pytest.mark.parametrize("samples", [1, 20])
def test_blocks_of_8x1_share_their_columns_and_equal_the_oracle(row: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.random((5, 1, 40)) < 0.2
    blocks[2] = False
    weight = (rng.standard_normal((5, 8, 40)) * blocks).reshape(40, 40).astype(np.float32)
    x = rng.standard_normal((samples, 40)).astype(np.float32)
    matrix = SparseMatrix(torch.from_numpy(weight), None, row)
    assert matrix.lanes().shared_columns
    assert_close(
        matrix.multiply(torch.from_numpy(x)),
        reference.linear(x.astype(np.float64), weight.astype(np.float64), None),
    )


def test_unstructured_rows_do_not_share_columns() -> None:
    weight = torch.eye(8)
    assert not to_lanes(to_csr(weight)).shared_columns


def test_a_pruned_weight_ignores_an_infinite_input() -> None:
    weight = torch.tensor([[0.0, 2.0]] * 9)
    weight[3] = 0.0
    x = torch.tensor([[torch.inf, 3.0]])
    for samples in (1, 2):
        y = SparseLinear(weight, None, kernels.isa())(x.repeat(samples, 1))
        assert torch.isfinite(y).all()


def test_wide_panels_are_cut_into_blocks_of_columns() -> None:
    torch.manual_seed(0)
    weight = torch.randn(33, 1700) * (torch.rand(33, 1700) < 0.3)
    layer = SparseLinear(weight, torch.randn(33), kernels.isa())
    x = torch.randn(64, 1700)
    assert_close(
        layer(x), torch.nn.functional.linear(x, weight, torch.from_numpy(layer.matrix.bias))
    )
    assert len(layer.matrix.blocks().blocks) > 1


def test_columns_beyond_sixteen_bits() -> None:
    weight = torch.zeros(3, 70_000)
    weight[1, [0, 65_534, 65_535, 65_536, 69_999]] = torch.arange(1.0, 6.0)
    x = torch.arange(140_000.0).reshape(2, -1) % 1000
    assert_close(SparseLinear(weight, None, kernels.isa())(x), x @ weight.t())


def test_rows_of_a_chunk_stand_longest_first() -> None:
    weight = torch.rand(2 * CHUNK, 40) * (torch.rand(2 * CHUNK, 40) < torch.rand(2 * CHUNK, 1))
    (rows,) = SparseMatrix(weight, None, 0).blocks().blocks
    assert rows.row is not None
    for chunk in (slice(0, CHUNK), slice(CHUNK, 2 * CHUNK)):
        assert sorted(rows.row[chunk]) == list(range(chunk.start, chunk.stop))
        assert (np.diff(np.diff(rows.row_ptr)[chunk]) <= 0).all()


@pytest.mark.parametrize("samples", [0, 1, 3, 70])
def test_results_do_not_depend_on_the_thread_count(samples: int) -> None:
    torch.manual_seed(0)
    layer = SparseLinear(torch.randn(301, 257) * (torch.rand(301, 257) < 0.1), None, kernels.isa())
    x = torch.randn(samples, 257)
    with torch_threads(1):
        one = layer(x)
    with torch_threads(2):
        two = layer(x)
    assert torch.equal(one, two)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_kernels_run_on_the_threads_that_torch_has() -> None:
    layer = SparseLinear(torch.randn(301, 257) * (torch.rand(301, 257) < 0.1), None, kernels.isa())
    with torch_threads(2):
        torch.ones(1 << 20).add_(1)  # large enough that torch starts its threads
        before = len(os.listdir("/proc/self/task"))
        assert before > 1
        for samples in (1, 200):
            layer(torch.randn(samples, 257))
            assert len(os.listdir("/proc/self/task")) == before


def test_calls_from_several_threads_give_the_same_result() -> None:
    torch.manual_seed(0)
    layer = SparseLinear(torch.randn(128, 96) * (torch.rand(128, 96) < 0.2), None, kernels.isa())
    inputs = [torch.randn(n, 96) for n in (1, 1, 5, 9, 64, 70) * 8]
    wanted = [layer(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for y, expected in zip(pool.map(layer, inputs), wanted, strict=True):
            assert torch.equal(y, expected)
