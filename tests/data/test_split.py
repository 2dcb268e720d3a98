"""A text cut in three: every line once, the shares kept, nothing overwritten."""

import itertools
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.data.split import split_text
from billhook.data.text import load_text
from billhook.errors import ConfigurationError, DataError


@pytest.mark.parametrize("count", [30, 99, 1_000, 12_345])
@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.05, 0.2), (0.3, 0.1)])
def test_every_line_goes_to_one_split(
    tmp_path: Path, count: int, valid: float, test: float
) -> None:
    lines = [f"sentence number {i}" for i in range(count)]
    (tmp_path / "book.txt").write_text("\n\n".join(lines) + "\n")
    counts = split_text(tmp_path / "book.txt", tmp_path / "out", valid, test)
    parts = {
        name: (tmp_path / "out" / f"book.{name}.txt").read_text().splitlines() for name in counts
    }
    assert sorted(itertools.chain(*parts.values())) == sorted(lines)
    assert counts == {name: len(part) for name, part in parts.items()}
    block = min(50, max(1, count // 100))
    assert abs(counts["valid"] - valid * count) <= 2 * block
    assert abs(counts["test"] - test * count) <= 2 * block
    place = {line: number for number, line in enumerate(lines)}
    for part in parts.values():
        assert part == sorted(part, key=place.__getitem__)


def test_a_study_reads_what_the_command_writes(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("".join(f"word{i} and more\n" for i in range(300)))
    arguments = ["text", "split", str(tmp_path / "own.txt"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "240 to train, 30 to valid, 30 to test" in result.output
    assert load_text(tmp_path / "out", vocab=5).vocab == ("<eos>", "and", "more", "word0", "<unk>")
    with pytest.raises(ConfigurationError, match="own.train.txt is there already"):
        split_text(tmp_path / "own.txt", tmp_path / "out")


def test_what_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError, match="has 2 lines with text, too few"):
        split_text(tmp_path / "own.txt", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="valid 0.5 and test 0.5"):
        split_text(tmp_path / "own.txt", tmp_path / "out", 0.5, 0.5)
