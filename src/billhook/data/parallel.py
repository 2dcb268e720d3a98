"""Parallel text: ``train.de``, ``train.en``, ``valid.*``, ``test.*``; line n goes with line n."""

import dataclasses
from pathlib import Path

from billhook.errors import DataError

__all__ = ["Pairs", "ParallelData", "load_parallel"]

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, of equal number."""

    source: list[str]
    target: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class ParallelData:
    """Three splits and one line that describes them. Each loaded set is its own."""

    train: Pairs
    valid: Pairs
    test: Pairs
    description: str


def load_parallel(where: str | Path | None, source: str, target: str) -> ParallelData:
    """``{train,valid,test}.SOURCE`` and ``.TARGET`` in a folder; None: names from Babel.

    Args:
        where: the folder, or None for the embedded German-English names.
        source: suffix of the files translated from, for example "de".
        target: suffix of the files translated into.

    Raises:
        DataError: a file is missing, two have unequal numbers of lines, a line is empty or no
            UTF-8; path and line are named.

    >>> load_parallel(None, "de", "en").train.target[:2]
    ['Afar', 'Abkhazian']
    """
    if where is None:
        from billhook.data import names_de_en

        return names_de_en.load(source, target)
    folder = Path(where)
    splits = {split: _pairs(folder, split, source, target) for split in SPLITS}
    sizes = " / ".join(f"{len(splits[split].source):,}" for split in SPLITS)
    description = f"parallel text in {folder.name}, {source} to {target}: {sizes} pairs"
    return ParallelData(splits["train"], splits["valid"], splits["test"], description)


def _pairs(folder: Path, split: str, source: str, target: str) -> Pairs:
    paths = [folder / f"{split}.{suffix}" for suffix in (source, target)]
    sides = [_lines(path) for path in paths]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{paths[0]} has {len(sides[0]):,} lines, {paths[1]} has {len(sides[1]):,}: line n of "
            "one has to be the translation of line n of the other"
        )
    return Pairs(*sides)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} is missing: train, valid and test are needed in both languages")
    lines = []
    # Bytes, because text mode also ends lines at lone carriage returns.
    for number, raw in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number} is not UTF-8 ({error.reason})") from None
        if not line:
            raise DataError(f"{path}, line {number} is empty: remove it here and in its partner")
        lines.append(line)
    return lines
