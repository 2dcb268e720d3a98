"""The solved sparsity hits the bytes of a file that is really written, for every family."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.models import gnmt, inception_v3, mobilenet_v1, ptb_lstm
from billhook.study.grid import plan
from billhook.study.sizes import file_bytes, nonzeros, sparsity_for, width_for
from billhook.study.spec import load_study
from billhook.tasks.digits import digits
from billhook.tasks.recipe import load_recipe

CODINGS = ("dense", "bitmask")
RECIPE = load_recipe("digits", "demo")
LARGE = digits(64, RECIPE).model
GRANULARITY = 3 * 4 + 8  # a weight more in each of three matrices, and the header's padding
FAMILIES: dict[str, tuple[Callable[[float], nn.Module], float, float]] = {
    "mobilenet_v1": (lambda width: mobilenet_v1(width, num_classes=10), 0.5, 0.8),
    "inception_v3": (lambda width: inception_v3(10, depth_multiplier=width), 0.1, 0.15),
    "ptb_lstm": (lambda width: ptb_lstm(hidden=int(width), vocab=3_000), 40, 96),
    "gnmt": (lambda width: gnmt(int(width), 700, 800), 32, 64),
}


def written(model: nn.Module, sparsity: float, path: Path) -> int:
    """Bytes of a file with the pruner's own masks in it, as after training: no other zeros."""
    if sparsity:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rules = getattr(model, "prune_rules", None)
        billhook.Pruner(model, optimizer, billhook.OneShot(sparsity), rules=rules).finalize()
    for tensor in model.state_dict().values():
        if tensor.dim() < 2:  # biases and running means start at zero
            tensor.fill_(1)
    billhook.save(model, path, encoding=CODINGS)
    return path.stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_bytes_to_a_thousandth_and_never_more(family: str, tmp_path: Path) -> None:
    build, small, large = FAMILIES[family]
    file = tmp_path / "model.billhook.safetensors"
    target = file_bytes(build(small), 0.0, CODINGS)
    assert written(build(small), 0.0, file) == target
    network = build(large)
    sparsity = sparsity_for(network, target, CODINGS)
    size, left = file_bytes(network, sparsity, CODINGS), nonzeros(network, sparsity)
    assert 0.999 * target <= size <= target
    assert written(network, sparsity, file) == size
    kept = {name: int(each.count_nonzero()) for name, each in billhook.load(file).items()}
    assert {name: kept[name] for name in left} == left


def test_every_point_of_digits_is_what_save_writes(tmp_path: Path) -> None:
    study = load_study("digits")
    for point in plan(study).points:
        file = tmp_path / f"{point.width}.billhook.safetensors"
        assert written(digits(point.width, RECIPE).model, 0.0, file) == point.dense_bytes
        large = digits(study.large_width, RECIPE).model
        assert written(large, point.sparsity, file) == point.sparse_bytes
        assert -GRANULARITY < point.mismatch <= 0


def test_solve_is_monotone_and_never_above_the_target() -> None:
    targets = range(2_400, 36_000, 397)
    sparsities = [sparsity_for(LARGE, target, CODINGS) for target in targets]
    assert sparsities == sorted(sparsities, reverse=True)
    for target, sparsity in zip(targets, sparsities, strict=True):
        assert target - GRANULARITY < file_bytes(LARGE, sparsity, CODINGS) <= target


def test_targets_out_of_reach_say_so() -> None:
    floor = file_bytes(LARGE, 1 - 1 / 8_832, CODINGS)
    assert floor > 8_832 / 8  # the masks alone
    with pytest.raises(ConfigurationError, match=rf"as small as {floor - 1:,} bytes"):
        sparsity_for(LARGE, floor - 1, CODINGS)
    with pytest.raises(ConfigurationError, match="without any pruning"):
        sparsity_for(LARGE, file_bytes(LARGE, 0.0, CODINGS), CODINGS)


def test_the_nearest_width() -> None:
    def bytes_of(width: float) -> int:
        return round(1000 * width**2)

    assert width_for(bytes_of, 16_400, 1.0, 64.0) == 4.0
    assert width_for(bytes_of, 21_000, 1.0, 64.0) == 5.0
    assert width_for(bytes_of, 250, 0.01, 1.0) == 0.5
    with pytest.raises(ConfigurationError, match="no dense width below 8 has a file of 99,000"):
        width_for(bytes_of, 99_000, 1.0, 8.0)
    with pytest.raises(ConfigurationError, match="they go from 1,000"):
        width_for(bytes_of, 400, 1.0, 8.0)
