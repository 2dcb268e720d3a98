"""Value types: zeros stay, survivors are counted, the account and the report hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import billhook
from billhook.errors import ConfigurationError
from billhook.format.codings import CODINGS
from billhook.format.values import dequantise, quantise

TINY = {"F16": 2.0**-24, "BF16": 2.0**-133}


def pruned(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator)
    return torch.where(torch.rand(*shape, generator=generator) < 0.2, weight, 0.0)


@given(hnp.arrays(np.float32, (5, 7), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_int8_is_the_nearest_multiple_of_the_rows_scale(weights: np.ndarray) -> None:
    quantised = quantise("w", torch.from_numpy(weights), "I8", keep_survivors=False)
    back = dequantise(quantised.elements, "I8", quantised.scales, "F32").numpy()
    assert (back[weights == 0] == 0).all()
    assert quantised.lost == np.count_nonzero((weights != 0) & (quantised.elements == 0))
    largest = np.abs(weights).max(axis=1)
    normal = largest > 1e-30  # below, the scale itself is rounded coarsely
    error = np.abs(back.astype(np.float64) - weights)[normal]
    assert (error <= quantised.scales[normal, None] * 0.5 * (1 + 1e-5)).all()
    assert (np.abs(back).max(axis=1)[normal] >= largest[normal] * (1 - 1e-6)).all()


@pytest.mark.parametrize("values", ["F16", "BF16", "I8"])
def test_only_weights_are_narrowed_and_the_account_holds(values: str, tmp_path: Path) -> None:
    tensors = {"w": pruned(40, 30), "conv": pruned(8, 4, 3, 3), "bias": torch.randn(40)}
    tensors |= {"step": torch.tensor(3), "index": torch.arange(12).reshape(3, 4)}
    path = tmp_path / "m.billhook.safetensors"
    for encoding in ("auto", *CODINGS):
        report = billhook.save(tensors, path, encoding=encoding, values=values)
        account = billhook.footprint(tensors, values=values)
        assert path.stat().st_size == report.stored_bytes == account.file_bytes(encoding)
        assert [t.dtype for t in report.tensors[:3]] == [f"F32:{values}", f"F32:{values}", "F32"]
        loaded = billhook.load(path)
        for name in ("bias", "step", "index"):
            assert torch.equal(loaded[name], tensors[name])
        for name in ("w", "conv"):
            assert loaded[name].dtype == torch.float32
            assert not loaded[name][tensors[name] == 0].any()
            if values != "I8":
                dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[values]
                assert torch.equal(loaded[name], tensors[name].to(dtype).float())


@pytest.mark.parametrize("values", ["F16", "BF16", "I8"])
def test_lost_survivors_are_counted_or_kept_at_one_quantum(values: str, tmp_path: Path) -> None:
    weight = torch.zeros(2, 100)
    weight[0, 0], weight[0, 1:4] = 1.0, torch.tensor([1e-42, -1e-42, 2e-42])
    path = tmp_path / "m.billhook.safetensors"
    report = billhook.save({"w": weight}, path, values=values)
    assert report.lost == 3
    assert report.tensors[0].nnz == 1
    assert "3 weights that were not zero rounded to zero" in str(report)
    report = billhook.save({"w": weight}, path, values=values, keep_survivors=True)
    assert report.lost == 0
    quantum = TINY.get(values, 1 / 127)
    kept = billhook.load(path)["w"][0, :5]
    assert kept.tolist() == pytest.approx([1, quantum, -quantum, quantum, 0], rel=1e-6)


@pytest.mark.parametrize(
    ("values", "value", "message"),
    [
        ("F16", 1e6, r"tensor 'w': 1e\+06 overflows F16"),
        ("I8", float("nan"), "tensor 'w' holds a value that int8 cannot hold"),
        ("I8", float("inf"), "tensor 'w' holds a value that int8 cannot hold"),
        ("I4", 1.0, "values='I4' is not one of F32, F16, BF16, I8"),
    ],
)
def test_what_does_not_fit_is_an_error(
    values: str, value: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        billhook.save({"w": torch.full((2, 2), value)}, tmp_path / "m", values=values)
    assert not list(tmp_path.iterdir())


def test_a_negative_zero_is_a_value_unless_it_is_made_canonical(tmp_path: Path) -> None:
    weight = torch.randn(100, 100) * (torch.rand(100, 100) < 0.1)  # the way masks are often applied
    minus = int(((weight == 0) & weight.signbit()).sum())
    assert minus > 4000
    path = tmp_path / "m.billhook.safetensors"
    report = billhook.save({"w": weight}, path, encoding="bitmask")
    assert (report.negative_zeros, report.negative_zero_bytes) == (minus, 4 * minus)
    assert f"{minus:,} values are -0.0" in str(report)
    assert torch.equal(billhook.load(path)["w"].signbit(), weight.signbit())
    canonical = billhook.save({"w": weight}, path, encoding="bitmask", canonical_zeros=True)
    assert canonical.negative_zeros == 0
    saved = report.tensors[0].nbytes - canonical.tensors[0].nbytes
    assert saved == report.negative_zero_bytes
    assert billhook.footprint({"w": weight}, canonical_zeros=True).file_bytes("bitmask") == (
        canonical.stored_bytes
    )
    assert torch.equal(billhook.load(path)["w"], weight)


def test_the_report_counts_gzip_and_the_floor(tmp_path: Path) -> None:
    import gzip

    tensors = {"w": pruned(200, 300), "b": torch.randn(200)}
    dense = billhook.save(tensors, tmp_path / "dense", encoding="dense")
    report = billhook.save(tensors, tmp_path / "m.billhook.safetensors")
    whole = (tmp_path / "dense").read_bytes()
    assert report.dense_bytes == dense.stored_bytes == len(whole)
    unchecked = gzip.compress(whole, 6)  # equal but for the checksums in the header
    assert report.gzip_bytes == pytest.approx(len(unchecked), rel=0.01)
    nnz = int(torch.count_nonzero(tensors["w"]))
    d = nnz / 60_000
    entropy = -(d * np.log2(d) + (1 - d) * np.log2(1 - d))
    assert report.floor_bytes == 4 * nnz + int(np.ceil(60_000 * entropy / 8)) + 800
    assert report.stored_bytes < 1.02 * report.floor_bytes + 300
    assert billhook.save(tensors, tmp_path / "m", gzip=False).gzip_bytes is None
