import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from billhook.errors import MaskError
from billhook.mask import Mask, select, survivors

SHAPES = npst.array_shapes(min_dims=1, max_dims=4, max_side=9)
#: Few distinct values, so that ties are the rule.
VALUES = st.sampled_from([0.0, -0.0, 0.25, 1.0, 1.0, 3.5, float("inf"), 1e-45, -2.0])


def _sorted_selection(scores: Tensor, keep: int) -> Tensor:
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.view(scores.shape)


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    return torch.from_numpy(draw(npst.arrays("float32", draw(SHAPES), elements=VALUES)))


@given(scores(), st.floats(0, 1))
def test_selection_equals_a_stable_sort(values: Tensor, share: float) -> None:
    keep = round(share * values.numel())
    mask = select(values, keep)
    assert mask.sum() == keep
    assert torch.equal(mask, _sorted_selection(values, keep))


@given(st.floats(0, 0.999), st.integers(0, 10_000))
def test_survivors_are_rounded_as_python_rounds(sparsity: float, numel: int) -> None:
    assert survivors(numel, sparsity) == round((1 - sparsity) * numel)


def test_all_equal_scores_keep_the_lowest_indices() -> None:
    mask = select(torch.full((3, 5), 2.0), 4)
    assert mask.flatten().tolist() == [True] * 4 + [False] * 11


def test_selection_follows_row_major_order_whatever_the_strides() -> None:
    values = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(select(values, 7), select(values.contiguous(), 7))


def test_nan_scores_are_an_error() -> None:
    with pytest.raises(MaskError, match="1 of 3 scores are NaN"):
        select(torch.tensor([1.0, float("nan"), 2.0]), 1)


@given(npst.arrays("bool", SHAPES))
def test_bits_round_trip_at_one_bit_a_weight(array: object) -> None:
    keep = torch.as_tensor(array)
    mask = Mask(keep)
    assert mask.bits.numel() == -(-keep.numel() // 8)
    assert mask.kept == keep.sum()
    again = Mask.from_bits(mask.bits, keep.shape)
    assert torch.equal(again.keep(), keep)
    assert again.kept == mask.kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_zero_writes_plus_zero_over_anything(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, float("nan"), -float("inf"), -0.0, 5.0], dtype=dtype)
    Mask(torch.tensor([False, False, False, False, True])).zero_(values)
    assert values.tolist() == [0.0, 0.0, 0.0, 0.0, 5.0]
    assert not values.signbit().any()


def test_masks_refuse_what_does_not_fit() -> None:
    mask = Mask(torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(MaskError, match=r"shape \(3, 3\) does not fit a tensor of shape \(9,\)"):
        mask.zero_(torch.ones(9))
    with pytest.raises(MaskError, match="1 mask entries"):
        Mask.from_bits(mask.bits[:1], torch.Size((3, 3)))
