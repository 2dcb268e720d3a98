"""Text in three files, by words or by characters.

By words it is in the form of Mikolov's Penn Treebank files: one sentence per line, words between
blanks, and every line ends with the word ``<eos>``. By characters it is what the files hold,
blanks and ends of line included. The vocabulary is the training split's, the most frequent symbol
first, equals in alphabetical order; what the other two splits hold beside it is an error, unless a
smaller vocabulary is asked for, whose last symbol, ``<unk>``, stands for everything else.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from billhook.errors import ConfigurationError, DataError

__all__ = ["EOS", "SPLITS", "TextData", "Unit", "from_lines", "load_text", "read_lines"]

EOS, UNK = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")

Unit = Literal["word", "character"]


@dataclasses.dataclass(frozen=True)
class TextData:
    """Three streams of symbol numbers, int64 ``(N,)``, the symbols, and a line about them."""

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    vocab: tuple[str, ...]
    description: str
    unit: Unit = "word"


def load_text(where: str | Path | None, unit: Unit = "word", vocab: int = 0) -> TextData:
    """``*.train.txt``, ``*.valid.txt``, ``*.test.txt`` (``ptb.train.txt``, ...); None: prose.

    The embedded prose is the reference documentation that ships inside CPython, so it differs a
    little between Python versions.

    Args:
        where: the folder.
        unit: what the symbols are, "word" or "character".
        vocab: how many symbols: the most frequent ones of the training split, and ``<unk>``, the
            last, for all others; 0: all that occur in the training split.

    Raises:
        DataError: a file is missing, there are several sets, a line of words is empty, or, with
            ``vocab=0``, a symbol of the validation or test split never occurs in training; path
            and line are named.
        ConfigurationError: ``vocab`` is 1 or more than there are symbols.

    >>> load_text(None).vocab[:3]
    ('the', '<eos>', 'a')
    >>> load_text(None, vocab=4).vocab
    ('the', '<eos>', 'a', '<unk>')
    >>> load_text(None, "character").vocab[:3]
    (' ', 'e', 't')
    """
    if where is None:
        from billhook.data import prose

        return from_lines(prose.splits(), "prose", unit=unit, vocab=vocab)
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the one that holds *.train.txt")
    paths = {split: _find(folder, split) for split in SPLITS}
    prefixes = {path.name.removesuffix(f"{split}.txt") for split, path in paths.items()}
    if len(prefixes) > 1:
        raise DataError(f"{folder} mixes several sets: {', '.join(sorted(prefixes))}")
    lines = {split: read_lines(path) for split, path in paths.items()}
    names = {split: str(path) for split, path in paths.items()}
    return from_lines(lines, folder.name, names, unit=unit, vocab=vocab)


def from_lines(
    lines: dict[str, list[str]],
    source: str,
    names: dict[str, str] | None = None,
    *,
    unit: Unit = "word",
    vocab: int = 0,
) -> TextData:
    """The streams of three lists of lines, "train", "valid" and "test"; as :func:`load_text`."""
    names = names or {split: f"{source}, {split} split" for split in SPLITS}
    for split in SPLITS:
        _check_lines(lines[split], names[split], unit)
    counts = Counter(symbol for line in lines["train"] for symbol in _symbols(line, unit))
    symbols = tuple(sorted(counts, key=lambda symbol: (-counts[symbol], symbol)))
    different = f"{len(symbols):,} different ones"
    rest = f", {EOS} included" if unit == "word" else ""
    if vocab:
        symbols = _most_frequent(symbols, vocab, f"{different} of the {unit}s in {source}")
        rest += f"; {vocab:,} kept, {UNK} for the others"
    number_of = {symbol: number for number, symbol in enumerate(symbols)}
    other = number_of[UNK] if vocab else None
    streams = {
        split: torch.tensor(list(_numbers(lines[split], unit, number_of, other, names[split])))
        for split in SPLITS
    }
    sizes = " / ".join(f"{len(streams[split]):,}" for split in SPLITS)
    description = f"text in {source}: {sizes} {unit}s, {different}{rest}"
    return TextData(streams["train"], streams["valid"], streams["test"], symbols, description, unit)


def _check_lines(lines: list[str], name: str, unit: Unit) -> None:
    if not lines:
        raise DataError(f"{name} is empty")
    if unit == "word":
        for number, line in enumerate(lines, start=1):
            if not line.split():
                raise DataError(f"{name}, line {number} is empty: remove it")


def _most_frequent(symbols: tuple[str, ...], size: int, these: str) -> tuple[str, ...]:
    if not 2 <= size <= len(symbols):
        raise ConfigurationError(
            f"[data] vocab {size:,} has to be from 2 to {len(symbols):,}, the {these}"
        )
    return (*[symbol for symbol in symbols if symbol != UNK][: size - 1], UNK)


def _symbols(line: str, unit: Unit) -> Iterator[str]:
    if unit == "word":
        yield from line.split()
        yield EOS
    else:
        yield from line
        yield "\n"


def _numbers(
    lines: list[str], unit: Unit, number_of: dict[str, int], other: int | None, name: str
) -> Iterator[int]:
    """The number of every symbol; ``other`` for those without one, an error if there is none."""
    for row, line in enumerate(lines, start=1):
        for symbol in _symbols(line, unit):
            number = number_of.get(symbol, other)
            if number is None:
                raise DataError(
                    f"{name}, line {row}: {symbol!r} never occurs in the training split; set "
                    f"[data] vocab, and {UNK} stands for rare {unit}s"
                    + (", or write it for them in all three files" if unit == "word" else "")
                )
            yield number


def _find(folder: Path, split: str) -> Path:
    found = sorted(folder.glob(f"*{split}.txt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} has to hold one *{split}.txt, it has {names}")
    return found[0]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends.

    Raises:
        DataError: it is not UTF-8; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {row} is not UTF-8 ({error.reason}): convert it") from None
    # Not splitlines(): that also splits at form feeds and other characters inside a sentence.
    return text.removesuffix("\n").split("\n") if text else []
