"""Files of coded tensors: each changed one is refused by an error of ours, or read right."""

import contextlib
import random
import runpy
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import billhook
from billhook.errors import BillhookError
from billhook.format.dtypes import to_elements

from .files import File, build, change, flip, parse

__all__ = ["check", "make", "seeds"]

INDEPENDENT = runpy.run_path(str(Path(__file__).parent.parent / "format" / "independent_reader.py"))


def seeds(folder: Path) -> list[File]:
    """Small files of every coding, with and without narrower values, and plain ones."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=generator)
    weight[torch.rand(5, 4, generator=generator) < 0.7] = 0.0
    cube = torch.zeros(3, 4, 6)
    cube[1, 2, 3] = -0.0
    blocked = torch.zeros(5, 6)
    blocked[:4, 4:6] = torch.randn(4, 2, generator=generator)
    tensors = {"w": weight, "b": torch.tensor([1.0, -0.0]), "tied": weight, "c": cube}
    tensors["k"] = blocked
    tensors |= {
        "i": torch.arange(4),
        "s": torch.tensor(7, dtype=torch.int16),
        "e": torch.zeros(0, 3),
    }
    files = []
    for encoding in ("dense", "bitmask", "blocks", "relative_index", "entropy", "auto"):
        for values in (None, "I8", "F16"):
            billhook.save(tensors, folder / "seed", encoding=encoding, values=values, gzip=False)
            files.append(parse((folder / "seed").read_bytes()))
    safetensors.torch.save_file({k: t.clone() for k, t in tensors.items()}, folder / "seed")
    return [*files, parse((folder / "seed").read_bytes())]


def make(rng: random.Random, files: list[File]) -> bytes:
    """The bytes of a changed file."""
    data = build(change(rng, rng.choice(files)), rng)
    return flip(rng, data) if rng.random() < 0.05 else data


def check(path: Path, data: bytes) -> str:
    """ "refused" or "read"; anything else than an error of ours, or a right result, is raised."""
    path.write_bytes(data)
    if zlib.crc32(data) % 4 == 0:
        _inspect(path, draw=zlib.crc32(data) % 16 == 0)  # which takes longer than all the rest
    try:
        loaded = billhook.load(path)
    except BillhookError:
        return "refused"
    _compare(loaded, data)
    return "read"


def _inspect(path: Path, draw: bool) -> None:
    with contextlib.suppress(BillhookError):
        inspection = billhook.inspect(path)
        if draw:
            assert all(c.isprintable() or c == "\n" for c in str(inspection))


def _compare(loaded: dict[str, torch.Tensor], data: bytes) -> None:
    """What we read equals what a reader of another hand reads, as far as that one goes."""
    if b'"billhook"' not in data:
        try:
            other = safetensors.torch.load(data)
        except KeyError:  # it lacks some types (F4) that its own format has
            return
        assert set(other) == set(loaded)
        assert all(_bits(other[name]) == _bits(loaded[name]) for name in other)
        return
    try:
        read: dict[str, Any] = INDEPENDENT["read"](data)
    except (AssertionError, KeyError, OverflowError) as error:
        # It leaves out some types, and conversions, and scales that make a value infinite.
        if isinstance(error, KeyError | OverflowError) or "leaves out" in str(error):
            return
        raise
    assert set(read) == set(loaded)
    for name, (_, shape, content) in read.items():
        assert tuple(loaded[name].shape) == shape
        ours = _bits(loaded[name])
        assert ours == content or len(ours) != len(content)  # I8 as another float than F32


def _bits(tensor: torch.Tensor) -> bytes:
    return to_elements(tensor).tobytes()
