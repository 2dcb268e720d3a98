"""The GPU kernels against the native passes of the CPU.

In Triton's interpreter, on tensors of the CPU; with ``TRITON_INTERPRET=0`` and a GPU, on that.
"""

import importlib.util
import os

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: make test-triton", allow_module_level=True)

from billhook.backends import native, portable, triton, triton_kernels

ON_GPU = os.environ.get("TRITON_INTERPRET") == "0" and torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
#: Small ones in the interpreter, which takes its time.
BLOCK, PIECE = (triton_kernels.BLOCK, triton_kernels.PIECE) if ON_GPU else (64, 128)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "BLOCK", BLOCK)
    monkeypatch.setattr(triton_kernels, "PIECE", PIECE)


BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FEW = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), 6e-8, -2e-42, 0.5])


def same(a: Tensor, b: Tensor) -> bool:
    a, b = a.cpu(), b.cpu()
    return torch.equal(a.contiguous().view(BITS[a.itemsize]), b.contiguous().view(BITS[b.itemsize]))


def weights(dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Sizes around words, blocks and pieces; ties, zeros of both signs, subnormals, infinities."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [1, 31, 33, BLOCK - 1, BLOCK, PIECE, 2 * PIECE + 7]
    normal = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
    tied = [FEW[torch.randint(len(FEW), (size,), generator=generator)].to(dtype) for size in sizes]
    image = torch.randn(3, 5, 3, 7, generator=generator).to(dtype)
    return [*normal, *tied, image.to(memory_format=torch.channels_last)]


def on_device(like: Tensor) -> Tensor:
    return torch.empty_like(like, device=DEVICE)


def mask_of(shape: torch.Size, share: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def bits_of(keep: Tensor) -> Tensor:
    bits = portable.new_bits(keep.numel(), DEVICE)
    bits.copy_(portable.pack(keep))
    return bits


@pytest.mark.parametrize("returning", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_an_update_equals_the_native_one(dtype: torch.dtype, returning: bool) -> None:
    batch = triton.Batch(DEVICE)
    for seed, share in enumerate((0.1, 0.97)):
        raws = weights(dtype, seed)
        olds = [mask_of(raw.shape, 1.0 if seed == 0 else 0.6, seed) for raw in raws]
        keeps = [round(share * raw.numel()) for raw in raws]
        kept = [torch.where(old, raw, 0.0) for old, raw in zip(olds, raws, strict=True)]
        asides = [torch.where(old, 7.0, raw) for old, raw in zip(olds, raws, strict=True)]
        asides = [on_device(r).copy_(a) for r, a in zip(raws, asides, strict=True)]
        kept = [on_device(r).copy_(k) for r, k in zip(raws, kept, strict=True)]
        bits = [bits_of(old) for old in olds]
        addresses = [each.data_ptr() for each in bits]
        given: list[Tensor | None] = [each if returning else None for each in asides]
        asked = list(map(triton.Held, kept, given, bits, keeps))
        assert all(each.fits for each in asked)
        fresh, nans = zip(*batch.rank(asked), strict=True)
        assert [int(each) for each in nans] == [0] * len(raws)
        batch.exchange(list(map(triton.Change, kept, given, bits, fresh)), keep_aside=True)
        assert addresses == [each.data_ptr() for each in bits]
        for raw, old, keep, weight, aside, new in zip(
            raws, olds, keeps, kept, asides, bits, strict=True
        ):
            flat, held = raw.contiguous(), portable.pack(old)
            lower = torch.where(old, flat, 0.0)
            _, wanted, _ = native.select_raw(lower, flat if returning else None, held, keep)
            assert torch.equal(new.cpu(), wanted)
            now = portable.unpack(wanted, raw.shape)
            assert same(weight, torch.where(now if returning else now & old, flat, 0.0))
            if returning:
                assert same(torch.where(now, 0.0, aside.cpu()), torch.where(now, 0.0, flat))


def test_a_tensor_with_a_nan_keeps_its_mask() -> None:
    raws = [torch.randn(200), torch.randn(900)]
    keeps = [mask_of(raw.shape, 0.5, 3) for raw in raws]
    keeps[1][17] = True
    raws[1][17] = -torch.nan
    bits = [bits_of(keep) for keep in keeps]
    held = list(map(triton.Held, [raw.to(DEVICE) for raw in raws], [None, None], bits, [90, 9]))
    (first, none), (second, one) = triton.Batch(DEVICE).rank(held)
    assert (int(none), int(one)) == (0, 1)
    assert int(portable.unpack(first.cpu(), raws[0].shape).sum()) == 90
    assert torch.equal(second, bits[1])


def jobs_of(keeps: list[Tensor], tensors: list[Tensor]) -> list[triton.Zero]:
    layouts = [triton.layout_of(tensor) for tensor in tensors]
    return [
        triton.Zero(bits_of(keep), tensor, layout)
        for keep, tensor, layout in zip(keeps, tensors, layouts, strict=False)
        if layout is not None
    ]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_zero_writes_plus_zero_and_nothing_else(dtype: torch.dtype, check: bool) -> None:
    tensors = weights(dtype, 5)
    tensors.append(torch.randn(300).to(dtype)[3:])  # not at a multiple of 16 bytes
    tensors[2][:] = -torch.nan
    keeps = [mask_of(tensor.shape, 0.3, i) for i, tensor in enumerate(tensors)]
    for chosen in (slice(None), slice(0, 7)):  # with and without other layouts
        mine = [on_device(tensor).copy_(tensor) for tensor in tensors[chosen]]
        if chosen == slice(None):
            mine[-1] = torch.cat([mine[-1][:1], mine[-1]])[1:]
        expected = [
            torch.where(k, t.cpu(), torch.zeros_like(t, device="cpu"))
            for k, t in zip(keeps, mine, strict=False)
        ]
        triton.Batch(DEVICE).zero(jobs_of(keeps, mine), check=check)
        assert all(same(a, b) for a, b in zip(mine, expected, strict=True))


def test_mixed_item_sizes_take_a_launch_each() -> None:
    tensors = [torch.randn(100), torch.randn(100).bfloat16(), torch.randn(50).double()]
    keeps = [mask_of(tensor.shape, 0.5, 1) for tensor in tensors]
    expected = [torch.where(k, t, torch.zeros_like(t)) for k, t in zip(keeps, tensors, strict=True)]
    tensors = [tensor.to(DEVICE) for tensor in tensors]
    triton.Batch(DEVICE).zero(jobs_of(keeps, tensors), check=False)
    assert all(same(a, b) for a, b in zip(tensors, expected, strict=True))


@pytest.mark.skipif(ON_GPU, reason="kernels are compiled")
def test_the_interpreter_is_kept_from_a_gpus_memory(caplog: pytest.LogCaptureFixture) -> None:
    """It would read addresses of the device as if they were its own."""
    assert not triton.is_available(torch.device("cuda", 7))
    assert "TRITON_INTERPRET=1" in caplog.text
