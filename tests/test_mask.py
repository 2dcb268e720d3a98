from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from billhook.backends import native
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


@pytest.fixture(params=["native", "portable"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the two ways, which have to agree; without a native library there is one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "portable":
            patch.setattr(native, "is_available", lambda: False)
        elif not native.is_available():
            pytest.skip("built without a compiler")
        yield request.param


PER_PATH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@PER_PATH
@given(values=scores(), share=st.floats(0, 1))
def test_selection_equals_a_stable_sort(path: str, values: Tensor, share: float) -> None:
    keep = round(share * values.numel())
    mask = select(values, keep)
    assert mask.sum() == keep
    assert torch.equal(mask, _sorted_selection(values, keep))


LARGE: dict[str, Callable[[int], Tensor]] = {
    "normal": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(n)).abs(),
    "signed": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(n)),
    "a third zero": lambda n: torch.randn(n).clamp_min(0.43),
    "all equal": lambda n: torch.full((n,), 0.5),
    "rising": lambda n: torch.arange(n, dtype=torch.float32),
    "the sample misleads": lambda n: torch.where(torch.arange(n) % (n // 2**17) == 0, 9.0, 1.0),
    "denormals": lambda n: torch.arange(n, dtype=torch.int32).remainder(977).view(torch.float32),
    "infinities": lambda n: torch.randn(n).log(),
}


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", LARGE)
def test_large_selections_equal_a_stable_sort(path: str, kind: str, share: float) -> None:
    """Beyond 2**17 scores the native path brackets the threshold by a sample."""
    values = torch.nan_to_num(LARGE[kind](2**18 + 5), nan=float("-inf"), neginf=float("-inf"))
    keep = round(share * values.numel())
    assert torch.equal(select(values, keep), _sorted_selection(values, keep))


@given(st.floats(0, 0.999), st.integers(0, 10_000))
def test_survivors_are_rounded_as_python_rounds(sparsity: float, numel: int) -> None:
    assert survivors(numel, sparsity) == round((1 - sparsity) * numel)


def test_all_equal_scores_keep_the_lowest_indices() -> None:
    mask = select(torch.full((3, 5), 2.0), 4)
    assert mask.flatten().tolist() == [True] * 4 + [False] * 11


def test_selection_follows_row_major_order_whatever_the_strides() -> None:
    values = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(select(values, 7), select(values.contiguous(), 7))


def test_nan_scores_are_an_error(path: str) -> None:
    with pytest.raises(MaskError, match="1 of 3 scores are NaN"):
        select(torch.tensor([1.0, float("nan"), 2.0]), 1)
    for place in (0, 1_000, 2**18 - 1):
        values = torch.ones(2**18)
        values[place] = -torch.nan
        with pytest.raises(MaskError, match="1 of 262144 scores are NaN"):
            select(values, 100)


@given(npst.arrays("bool", SHAPES))
def test_bits_round_trip_at_one_bit_a_weight(array: object) -> None:
    keep = torch.as_tensor(array)
    mask = Mask(keep)
    assert mask.bits.numel() == -(-keep.numel() // 8)
    assert mask.kept == keep.sum()
    again = Mask.from_bits(mask.bits, keep.shape)
    assert torch.equal(again.alive(), keep)
    assert again.kept == mask.kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_zero_writes_plus_zero_over_anything(path: str, dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, float("nan"), -float("inf"), -0.0, 5.0] * 7, dtype=dtype)
    Mask(torch.tensor([False, False, False, False, True] * 7)).zero_(values)
    assert values.tolist() == [0.0, 0.0, 0.0, 0.0, 5.0] * 7
    assert not values.signbit().any()


@PER_PATH
@given(npst.arrays("bool", SHAPES), st.booleans())
def test_zero_touches_nothing_else(path: str, array: Any, transposed: bool) -> None:
    keep = torch.as_tensor(array)
    values = torch.randn(keep.shape)
    if transposed:
        values, keep = values.transpose(0, -1), keep.transpose(0, -1)
    expected = torch.where(keep, values, 0.0)
    version = values._version
    Mask(keep).zero_(values)
    assert torch.equal(values, expected)
    assert values._version > version or keep.all()  # autograd is told of what was written


def test_masks_refuse_what_does_not_fit() -> None:
    mask = Mask(torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(MaskError, match=r"shape \(3, 3\) does not fit a tensor of shape \(9,\)"):
        mask.zero_(torch.ones(9))
    with pytest.raises(MaskError, match="1 mask entries"):
        Mask.from_bits(mask.bits[:1], torch.Size((3, 3)))
