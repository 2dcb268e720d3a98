"""The solved sparsity hits the bytes of a file that is really written, within its granularity."""

from pathlib import Path

import pytest
import torch

import billhook
from billhook.errors import ConfigurationError
from billhook.study.family import family
from billhook.study.grid import solve
from billhook.study.sizes import CODINGS, byte_split, file_bytes, shapes_of, sparsity_for
from billhook.study.spec import load_study

LARGE = shapes_of("digits", 64)
GRANULARITY = 3 * 4 + 8  # a weight more in each of three matrices, and the header's padding


def written(width: int, sparsity: float, path: Path) -> int:
    """Bytes of a file with the pruner's own masks in it."""
    model = family("digits").build(width)
    if sparsity:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        billhook.Pruner(model, optimizer, billhook.OneShot(sparsity)).finalize()
    billhook.save(model, path, encoding=CODINGS)
    return path.stat().st_size


def test_every_point_of_digits_is_what_save_writes(tmp_path: Path) -> None:
    study = load_study("digits")
    for point in solve(study):
        file = tmp_path / f"{point.width}.billhook.safetensors"
        assert written(point.width, 0.0, file) == point.dense_bytes
        assert written(study.large_width, point.sparsity, file) == point.sparse_bytes
        assert -GRANULARITY < point.mismatch <= 0


def test_solve_is_monotone_and_never_above_the_target() -> None:
    targets = range(2_400, 36_000, 97)
    sparsities = [sparsity_for(LARGE, target) for target in targets]
    assert sparsities == sorted(sparsities, reverse=True)
    for target, sparsity in zip(targets, sparsities, strict=True):
        assert target - GRANULARITY < file_bytes(LARGE, sparsity) <= target


def test_targets_out_of_reach_say_so() -> None:
    floor = file_bytes(LARGE, 1 - 1 / 8_832)
    assert floor > 8_832 / 8  # the masks alone
    with pytest.raises(ConfigurationError, match=rf"as small as {floor - 1:,} bytes"):
        sparsity_for(LARGE, floor - 1)
    with pytest.raises(ConfigurationError, match="without any pruning"):
        sparsity_for(LARGE, file_bytes(LARGE, 0.0))


def test_bytes_split_into_header_masks_and_values() -> None:
    split = byte_split(LARGE, 0.9)
    assert split.masks == 8_832 / 8
    assert split.values == 4 * (round(4_096 * 0.1) * 2 + round(640 * 0.1) + 138)
    assert split.total == file_bytes(LARGE, 0.9)
    assert byte_split(LARGE, 0.0).masks == 0
