"""A checkpoint is read back bit for bit, or refused: by its file alone."""

import errno
import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import billhook.training.log
from billhook.atomic import remove_leftovers, replacing, write_text
from billhook.errors import StateError
from billhook.training.checkpoint import read_checkpoint
from billhook.training.log import TrainingLog


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "recipe": {"family": "x"},
        "step": 7,
        "pruner": None,
        "average": None,
        "task": {},
        "model": {"weight": torch.randn(40, 30), "bias": torch.zeros(5)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(40, 30)}}, "param_groups": []},
        "rng": [{"cpu": torch.get_rng_state()}],
        "loss": 1.5,
    }


def written() -> bytes:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    return buffer.getvalue()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def test_a_whole_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(written())
    assert same(read_checkpoint(tmp_path / "checkpoint.pt"), state())


def test_any_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, content, draw = tmp_path / "checkpoint.pt", written(), random.Random(0)
    ends = [*range(400), *range(len(content) - 1_500, len(content))]  # headers and the directory
    refused = 0
    for _ in range(600):
        place = draw.choice(ends) if draw.random() < 0.5 else draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except StateError:
            refused += 1
        else:
            assert same(found, state())
    assert refused > 300


def test_a_checkpoint_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path, content = tmp_path / "checkpoint.pt", written()
    for length in [*range(0, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(StateError, match="is damaged.*or delete it, and the run begins anew"):
            read_checkpoint(path)


def test_another_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(StateError, match="not a checkpoint that training wrote"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def log(folder: Path, step: int) -> TrainingLog:
    return TrainingLog(folder, Console(quiet=True), (step, 10), main=True, tensorboard=False)


def lines(folder: Path) -> list[str]:
    return [line.partition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]


def test_a_disk_that_is_full_leaves_the_evaluations_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = log(tmp_path, 0)
    first.evaluation(1, {"accuracy": 0.5}, 0.1, None)

    def full(path: Path, text: str) -> None:
        with replacing(path) as file:
            file.write(text[: len(text) // 2].encode())
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(billhook.training.log, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            first.evaluation(2, {"accuracy": 0.6}, 0.1, None)
    assert lines(tmp_path) == ["step", "1"]
    again = log(tmp_path, 1)  # continued from a checkpoint of step 1
    again.evaluation(2, {"accuracy": 0.6}, 0.1, None)
    assert lines(tmp_path) == ["step", "1", "2"]


@pytest.mark.parametrize(
    ("torn", "kept"), [("", []), ("ste", []), ("step,lr\r\n1,0.1\r\n2,0", ["1"])]
)
def test_a_torn_line_is_dropped(tmp_path: Path, torn: str, kept: list[str]) -> None:
    (tmp_path / "metrics.csv").write_bytes(torn.encode())
    assert [row["step"] for row in log(tmp_path, 1)._rows] == kept


@pytest.mark.parametrize("text", ["step,lr\n1\n2,3\n", "step\n\x80\n", "a,b\n1,2\n", "step\nx\n"])
def test_damaged_evaluations_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(StateError, match=r"metrics.csv is damaged .* continues from step 1"):
        log(tmp_path, 1)
    log(tmp_path, 0)  # a run that begins replaces them
    assert not (tmp_path / "metrics.csv").exists()


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "rows.csv"):
        (tmp_path / f".{name}.{'0a' * 16}.part").touch()
    (tmp_path / ".own.part").touch()
    remove_leftovers(tmp_path, ["rows.csv"])
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".own.part"]


def test_text_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "report.md").symlink_to("precious")
    with pytest.raises(StateError, match=r"report.md is a symbolic link to precious"):
        write_text(tmp_path / "report.md", "theirs")
    assert (tmp_path / "precious").read_text() == "mine"
