"""SPEC.md is enough to re-implement the format: a reader written from it agrees with ours."""

import runpy
from pathlib import Path

import pytest
import torch

import billhook
from billhook.format.codings import CODINGS
from billhook.format.dtypes import dtype_name, to_elements

READER = runpy.run_path(str(Path(__file__).with_name("independent_reader.py")))


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 30), (8, 6, 3, 3), (2000,), (), (0, 3), (64, 256)]
    result = {"step": torch.tensor(7), "index": torch.arange(6).reshape(2, 3)}
    for i, shape in enumerate(shapes):
        keep = torch.rand(shape, generator=generator) < 0.12 * (1 + i)
        result[f"w{i}"] = torch.where(keep, torch.randn(shape, generator=generator), 0.0)
    result["half"] = result["w0"].bfloat16()
    result["again"] = result["w0"]
    result["uneven"] = result["w5"] * (torch.arange(64)[:, None] % 4 == 0)
    result["uneven"][result["uneven"] == 0] = 0.0
    return result


@pytest.mark.parametrize("values", [None, "I8"])
@pytest.mark.parametrize("encoding", ["auto", *CODINGS])
def test_the_independent_reader_agrees(encoding: str, values: str | None, tmp_path: Path) -> None:
    path = tmp_path / "t.billhook.safetensors"
    given = {k: t for k, t in tensors().items() if values is None or t.dtype != torch.bfloat16}
    billhook.save(given, path, encoding=encoding, values=values)
    expected = billhook.load(path)
    read = READER["read"](path.read_bytes())
    assert set(read) == set(expected)
    for name, (dtype, shape, data) in read.items():
        tensor = expected[name]
        assert (dtype, shape) == (dtype_name(tensor.dtype), tuple(tensor.shape))
        assert data == to_elements(tensor).tobytes()
