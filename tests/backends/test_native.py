"""The native passes against a few lines of torch: every dtype, version and number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from billhook.backends import native

pytestmark = pytest.mark.skipif(not native.is_available(), reason="built without a compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
PER_VERSION = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
#: Around the widths of vectors, of words of the mask and of the blocks that threads share.
SIZES = st.integers(1, 140) | st.sampled_from([2**18 - 1, 2**18 + 65])


@pytest.fixture(params=["portable", "best"])
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "portable":
            patch.setattr(native, "_isa", lambda: 0)
        yield request.param


def packed(keep: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(keep.numpy(), bitorder="little"))


def unpacked(bits: Tensor, count: int) -> Tensor:
    flags = np.unpackbits(bits.numpy(), count=count, bitorder="little")
    return torch.from_numpy(flags).bool()


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in every bit, NaN and the sign of zero included."""
    return torch.equal(a.view(BITS[a.itemsize]), b.view(BITS[b.itemsize]))


def largest(scores: Tensor, keep: int) -> Tensor:
    order = torch.sort(scores, descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Weights with many ties, zeros of both signs, subnormals and infinities."""
    count, dtype = draw(SIZES), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(count, generator=generator).to(dtype)
    if draw(st.booleans()):
        few = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), 6e-8, -2e-42, 0.5])
        values = few.to(dtype)[torch.randint(len(few), (count,), generator=generator)]
    return values


def mask(data: st.DataObject, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    return torch.rand(count, generator=generator) < data.draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))


@PER_VERSION
@given(data=st.data())
@pytest.mark.parametrize("returning", [True, False])
def test_selection_ranks_the_raw_magnitudes(
    version: str, returning: bool, data: st.DataObject
) -> None:
    raw = data.draw(weights())
    held = mask(data, raw.numel())
    keep = round(data.draw(st.floats(0, 1)) * raw.numel())
    weight, aside = torch.where(held, raw, 0.0), torch.where(held, torch.nan, raw)
    scores = raw.float().abs()
    if not returning:
        scores = scores.masked_fill(~held, -torch.inf)
    nans, bits, _ = native.select_raw(weight, aside if returning else None, packed(held), keep)
    assert nans == 0
    assert torch.equal(bits, packed(largest(scores, keep)))


@PER_VERSION
@given(data=st.data())
def test_nans_are_counted_where_they_are_in_force(version: str, data: st.DataObject) -> None:
    raw = data.draw(weights())
    held = mask(data, raw.numel())
    bad = data.draw(st.sets(st.integers(0, raw.numel() - 1), min_size=1, max_size=3))
    raw[list(bad)] = -torch.nan if data.draw(st.booleans()) else torch.nan
    weight, aside = torch.where(held, raw, 0.0), torch.where(held, 0.0, raw)
    keep = round(data.draw(st.floats(0, 1)) * raw.numel())
    assert native.select_raw(weight, aside, packed(held), keep)[0] == len(bad)


@PER_VERSION
@given(data=st.data())
def test_zero_leaves_kept_bits_alone_and_says_what_it_met(
    version: str, data: st.DataObject
) -> None:
    tensor = data.draw(weights())
    tensor[data.draw(st.integers(0, tensor.numel() - 1))] = torch.nan
    keep = mask(data, tensor.numel())
    expected = torch.where(keep, tensor, torch.zeros_like(tensor))
    changes, version_before = not same(expected, tensor), tensor._version
    assert native.zero(tensor, packed(keep)) == changes
    assert same(tensor, expected)
    assert (tensor._version > version_before) == changes
    assert not native.zero(tensor, packed(keep))


@PER_VERSION
@given(data=st.data())
@pytest.mark.parametrize("few", [True, False])
def test_an_exchange_keeps_the_raw_weights(version: str, few: bool, data: st.DataObject) -> None:
    raw = data.draw(weights())
    before, now = mask(data, raw.numel()), mask(data, raw.numel())
    if few:  # words without a change are passed over
        now = before.clone()
        now[data.draw(st.integers(0, raw.numel() - 1))] ^= True
    zeros = torch.zeros_like(raw)
    weight, aside = torch.where(before, raw, zeros), torch.where(before, zeros + 7, raw)
    other, bits = torch.where(before, raw, zeros), packed(before)
    native.zero_leaving(other, bits, packed(now))
    native.exchange(weight, aside, bits, packed(now))
    assert torch.equal(bits, packed(now))
    assert same(weight, torch.where(now, raw, zeros))
    assert same(torch.where(now, zeros, aside), torch.where(now, zeros, raw))
    assert same(other, torch.where(now & before, raw, zeros))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_below_the_ceiling_need_not_be_read(version: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2**18 + 9, generator=generator).to(dtype)
    weight, aside, bits = raw.clone(), torch.zeros_like(raw), packed(torch.ones_like(raw).bool())
    ceiling, read = native.NO_CEILING, 0
    for sparsity in (0.3, 0.5, 0.6, 0.602, 0.604, 0.55, 0.9, 0.9, 0.95):
        moved = torch.randn(raw.numel(), generator=generator).to(dtype) * 0.001
        weight += torch.where(unpacked(bits, raw.numel()), moved, torch.zeros_like(moved))
        now = torch.where(unpacked(bits, raw.numel()), weight, aside)
        keep = round((1 - sparsity) * raw.numel())
        nans, new, ceiling = native.select_raw(weight, aside, bits, keep, ceiling)
        assert nans == 0
        assert torch.equal(new, packed(largest(now.float().abs(), keep)))
        native.exchange(weight, aside, bits, new)
        left = aside[~unpacked(bits, raw.numel())].float().abs()
        assert ceiling == native.NO_CEILING or left.max().view(torch.int32) <= ceiling
        read += ceiling == native.NO_CEILING
    assert read < 9


@pytest.mark.parametrize("kept_at", ["nowhere in the sample", "large in the sample"])
def test_a_sample_that_misleads_costs_time_and_not_the_result(version: str, kept_at: str) -> None:
    """Kept weights are sampled in runs of 8 at a stride: here that shows none, or the largest."""
    place = torch.arange(2**20)
    raw = torch.randn(len(place), generator=torch.Generator().manual_seed(0))
    if kept_at == "nowhere in the sample":
        held = place % 64 >= 48  # 2**18 of them: a stride of 256
    else:
        held = place % 4 == 0
        raw[place % 256 < 8] *= 100
    weight, aside = torch.where(held, raw, 0.0), torch.where(held, torch.nan, 0.0)
    keep = int(held.sum()) * 9 // 10
    ceiling = 0  # the bits of +0.0
    nans, bits, _ = native.select_raw(weight, aside, packed(held), keep, ceiling)
    assert nans == 0
    assert torch.equal(unpacked(bits, len(place)), largest(weight.abs(), keep))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    raw = torch.randn(2**20 + 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    held = torch.full((-(-raw.numel() // 8),), 255, dtype=torch.uint8)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        _, bits, _ = native.select_raw(raw, None, held, 99_999)
        weight, aside = raw.clone(), torch.zeros_like(raw)
        native.exchange(weight, aside, held.clone(), bits)
        results.append((bits, weight, aside))
    torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_only_plain_tensors_fit() -> None:
    plain = torch.zeros(4, 6)
    assert native.fits(plain)
    assert native.fits(torch.nn.Parameter(plain))
    assert native.fits(plain[1:3])
    assert not native.fits(plain.t())
    assert not native.fits(plain.to(torch.int8))
    assert not native.fits(plain.to("meta"))
    assert not native.fits(plain.to_sparse())
    assert not native.fits(torch.zeros(2, dtype=torch.complex64).conj())
    assert not native.fits(plain.as_subclass(type("Other", (Tensor,), {})))
