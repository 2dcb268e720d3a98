"""Masks by torch's operations alone: the same as the native ones, and never a synchronisation."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from billhook.backends import portable
from billhook.ranking import largest_by_tensor
from tests.backends.stand_in import Accelerator

FEW = [0.0, -0.0, 0.25, 1.0, 1.0, 3.5, float("inf"), -float("inf"), 1e-45, -2.0]


def largest(scores: Tensor, keep: int) -> Tensor:
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.view(scores.shape)


@given(values=st.lists(st.sampled_from(FEW), min_size=1, max_size=60), share=st.floats(0, 1))
def test_selection_equals_a_stable_sort(values: list[float], share: float) -> None:
    scores = torch.tensor(values)
    keep = round(share * len(values))
    nans, mask = portable.select(scores, keep)
    assert nans == 0
    assert torch.equal(mask, largest(scores, keep))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_large_selections_equal_a_stable_sort(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for scores in (torch.randn(300, 700, generator=generator), torch.zeros(300, 700)):
        keep = round(share * scores.numel())
        assert torch.equal(portable.select(scores, keep)[1], largest(scores, keep))
    scores = torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last)
    assert torch.equal(portable.select(scores, 99)[1], largest(scores.contiguous(), 99))


def test_nans_are_counted() -> None:
    assert portable.select(torch.tensor([1.0, torch.nan, 2.0, -torch.nan]), 2)[0] == 2
    assert portable.select(torch.tensor([1.0, torch.nan]), 0)[0] == 1


@given(st.integers(1, 70), st.randoms())
def test_bits_go_back_and_forth(count: int, random: object) -> None:
    keep = torch.rand(count) < 0.5
    bits = portable.pack(keep)
    assert bits.tolist() == [
        sum(int(bit) << i for i, bit in enumerate(keep[at : at + 8])) for at in range(0, count, 8)
    ]
    assert torch.equal(portable.unpack(bits, keep.shape), keep)


def test_the_raw_weight_is_put_together_in_place() -> None:
    raw, masked = torch.randn(5, 7), torch.rand(5, 7) < 0.5
    weight, aside = raw.masked_fill(masked, 0.0), torch.where(masked, raw, torch.nan)
    portable.complete(weight, aside, masked)
    assert torch.equal(aside, raw)
    portable.zero(weight.fill_(-torch.nan), masked)
    assert torch.equal(weight.signbit() | weight.isnan(), ~masked)


def test_nothing_waits_for_the_device() -> None:
    with Accelerator() as device:
        raw = device.tensor(torch.randn(40, 50))
        masked = device.tensor(torch.rand(40, 50) < 0.5)
        aside = device.tensor(torch.randn(40, 50))
        device.reset()
        for keep in (0, 200, 1_500, 2_000):
            _, mask = portable.select(raw.abs(), keep)
            portable.pack(mask)
        portable.complete(raw, aside, masked)
        assert not device.synchronisations
        device.reset()
        portable.zero(raw, masked)
        assert device.kernels == 1
        assert device.bytes == 9 * 2_000


RANKED: dict[str, Callable[[int], torch.Tensor]] = {
    "all different": lambda n: torch.randn(n).abs(),
    "many equal": lambda n: torch.randn(n).mul(20).round(),
    "all equal": torch.ones,
    "infinite": lambda n: torch.where(torch.rand(n) < 0.3, -torch.inf, torch.randn(n)),
}


@pytest.mark.parametrize("kind", RANKED)
@pytest.mark.parametrize("share", [0.003, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("on_device", [False, True])
def test_one_ranking_of_several_tensors_equals_a_stable_sort(
    kind: str, share: float, on_device: bool
) -> None:
    torch.manual_seed(0)
    scores = [RANKED[kind](size).view(-1, 5) for size in (300_000, 5, 1_000, 77_775)]
    count = round(share * sum(each.numel() for each in scores))
    order = torch.cat([each.flatten() for each in scores]).sort(descending=True, stable=True)
    best = torch.zeros_like(order.indices).index_fill_(0, order.indices[:count], 1)
    expected = [int(each.sum()) for each in best.split([each.numel() for each in scores])]
    with Accelerator() as device:
        there = [device.tensor(each) for each in scores] if on_device else scores
        device.reset()
        assert largest_by_tensor(there, count) == expected
        if on_device and kind == "all different":
            assert dict(device.synchronisations) == {"copy to the host": 1}
