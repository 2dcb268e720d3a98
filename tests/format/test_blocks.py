"""One bit for every block: the sides are found, and the file is the smallest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import billhook
from billhook.format.blocks import Blocks
from billhook.granularity import NM, Block, Granularity, Rows


def pruned(granularity: Granularity, shape: tuple[int, ...], sparsity: float) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = granularity.kept(weight.shape, sparsity)
    return weight.masked_fill(~granularity.mask(weight.abs(), kept), 0.0)


def measured(weight: torch.Tensor) -> dict[str, int]:
    elements = weight.numpy().view("<u4")
    return dict(Blocks().measure(elements, int(np.count_nonzero(elements))).params)


@pytest.mark.parametrize("shape", [(64, 96), (48, 24, 3, 3), (50, 37)])
@pytest.mark.parametrize(
    "granularity", [Block(1, 4), Block(4, 1), Block(8, 1), Block(8, 4), Block(16, 1)], ids=repr
)
def test_the_blocks_of_a_granularity_are_found(granularity: Block, shape: tuple[int, ...]) -> None:
    weight = pruned(granularity, shape, 0.9)
    params = measured(weight)
    assert (params["rows"], params["columns"]) == (granularity.rows, granularity.columns)
    assert params["inner"] == 1
    assert params["stored"] == params["nnz"] == int(weight.count_nonzero())


def test_stacked_experts_and_whole_kernels_are_blocks_too() -> None:
    experts = pruned(Block(1, 4), (4 * 16, 32), 0.9).view(4, 16, 32)
    assert measured(experts)["inner"] == 4
    filters = measured(pruned(Rows(), (32, 4, 4, 4), 0.75))
    assert (filters["columns"], filters["inner"]) == (4, 16)


@pytest.mark.parametrize("values", [None, "I8"])
@pytest.mark.parametrize("granularity", [Block(1, 4), Block(8, 1), Block(8, 4)], ids=repr)
def test_the_smallest_coding_of_block_pruned_weights(
    granularity: Granularity, values: str | None, tmp_path: Path
) -> None:
    weight = pruned(granularity, (256, 128), 0.9)
    path = tmp_path / "w.billhook.safetensors"
    report = billhook.save({"w": weight}, path, values=values)
    assert report.tensors[0].coding == "blocks"
    others = billhook.footprint({"w": weight}, values=values)
    sizes = {each: others.file_bytes(each) for each in ("bitmask", "entropy", "relative_index")}
    assert report.stored_bytes < 0.97 * min(sizes.values())
    assert torch.equal(billhook.load(path)["w"] != 0, weight != 0) or values == "I8"


@pytest.mark.parametrize("granularity", [NM(2, 4)], ids=repr)
def test_other_patterns_have_no_blocks(granularity: Granularity) -> None:
    assert measured(pruned(granularity, (64, 96), 0.5))["stored"] == 64 * 48


@given(
    sides=st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_blocks_with_zeros_in_them_come_back(
    sides: tuple[int, int, int], shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = [-(-size // side) for size, side in zip(shape, sides, strict=True)]
    kept = (rng.random(counts) < 0.3).repeat(sides[0], 0).repeat(sides[1], 1).repeat(sides[2], 2)
    kept = kept[: shape[0], : shape[1], : shape[2]]
    elements = np.where(kept, rng.integers(0, 4, shape), 0).astype("<u2")
    coding, nnz = Blocks(), int(np.count_nonzero(elements))
    layout = coding.measure(elements, nnz)
    encoded = coding.encode(elements, layout)
    assert encoded.values.size == layout.values >= nnz
    assert layout.nbytes(2) <= 2 * nnz + (elements.size + 7) // 8  # never above the bit mask
    assert np.array_equal(coding.decode(encoded, shape), elements)
