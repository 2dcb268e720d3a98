"""One text file cut into the three files that language studies read."""

from pathlib import Path

from billhook.atomic import write_text
from billhook.data.text import SPLITS, read_lines
from billhook.errors import ConfigurationError, DataError

__all__ = ["split_text"]

BLOCK = 50  # lines; neighbours speak of the same things and belong together


def split_text(source: Path, folder: Path, valid: float = 0.1, test: float = 0.1) -> dict[str, int]:
    """Write ``NAME.train.txt``, ``NAME.valid.txt`` and ``NAME.test.txt`` for the text ``NAME.txt``.

    Every line goes to one of them, in its order, but for empty ones, which none gets. Blocks of 50
    lines are dealt out evenly over the whole text.

    Args:
        source: the text, UTF-8, with a sentence or paragraph per line.
        folder: made if missing; it must not hold these files yet.
        valid, test: their shares of the lines.

    Returns:
        The number of lines of each split.

    Raises:
        ConfigurationError: shares that leave nothing to train on, or files that are there already.
        DataError: too few lines.
    """
    if not (0 < valid < 1 and 0 < test < 1 and valid + test < 1):
        raise ConfigurationError(
            f"valid {valid:g} and test {test:g} have to be shares above 0 that leave some lines to "
            "train on, such as 0.1 and 0.1"
        )
    paths = {split: folder / f"{source.stem}.{split}.txt" for split in SPLITS}
    there = [path for path in paths.values() if path.exists()]
    if there:
        raise ConfigurationError(f"{there[0]} is there already: give another folder, or remove it")
    lines = [line for line in read_lines(source) if line.strip()]
    size = min(BLOCK, max(1, len(lines) // 100))
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    starts = range(0, len(lines), size)
    shares = {"train": 1 - valid - test, "valid": valid, "test": test}
    for split, start in zip(_dealt(len(starts), shares), starts, strict=True):
        parts[split] += lines[start : start + size]
    if not all(parts.values()):
        raise DataError(f"{source} has {len(lines)} lines with text, too few for three splits")
    folder.mkdir(parents=True, exist_ok=True)
    for split, path in paths.items():
        write_text(path, "".join(f"{line}\n" for line in parts[split]))
    return {split: len(part) for split, part in parts.items()}


def _dealt(count: int, shares: dict[str, float]) -> list[str]:
    """Whose turn each of ``count`` blocks is: of the split that is furthest behind its share."""
    turns: list[str] = []
    taken = dict.fromkeys(shares, 0)
    for number in range(1, count + 1):
        split = max(shares, key=lambda name: shares[name] * number - taken[name])
        taken[split] += 1
        turns.append(split)
    return turns
