"""Text in the form of Mikolov's Penn Treebank files: a sentence a line, words between blanks.

Every line ends with the word ``<eos>``; the vocabulary is the training split's, the most frequent
word first, equals in alphabetical order, and has to cover the other two splits.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from billhook.errors import ConfigurationError, DataError

__all__ = ["EOS", "TextData", "from_lines", "load_text"]

EOS, UNK = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class TextData:
    """Three streams of word numbers, int64 ``(N,)``, the words, and one line on what was found."""

    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    vocab: tuple[str, ...]
    found: str

    def with_vocab(self, size: int) -> "TextData":
        """The same text in ``size`` words: ``<unk>``, the last, stands for all but the others.

        The others are the most frequent ones of the training split.

        Raises:
            ConfigurationError: ``size`` is below 2 or more than there are words.

        >>> load_text(None).with_vocab(4).vocab
        ('the', '<eos>', 'a', '<unk>')
        """
        if not 2 <= size <= len(self.vocab):
            raise ConfigurationError(
                f"[data] vocab {size:,} has to be from 2 to its {len(self.vocab):,} words, for "
                f"{self.found}"
            )
        kept = [number for number, word in enumerate(self.vocab) if word != UNK][: size - 1]
        number_of = torch.full((len(self.vocab),), size - 1)
        number_of[kept] = torch.arange(size - 1)
        return TextData(
            number_of[self.train],
            number_of[self.valid],
            number_of[self.test],
            (*(self.vocab[number] for number in kept), UNK),
            f"{self.found}; {size:,} kept, {UNK} for the others",
        )


def load_text(where: str | Path | None) -> TextData:
    """``*.train.txt``, ``*.valid.txt``, ``*.test.txt`` (``ptb.train.txt``, ...); None: prose.

    The embedded prose is the reference documentation that ships inside CPython, so it differs a
    little between Python versions.

    Raises:
        DataError: a file is missing, there are several sets, a line is empty, or a word of the
            validation or test split never occurs in training; path and line are named.

    >>> load_text(None).vocab[:3]
    ('the', '<eos>', 'a')
    """
    if where is None:
        from billhook.data import prose

        return from_lines(prose.splits(), "prose")
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the one that holds *.train.txt")
    paths = {split: _find(folder, split) for split in SPLITS}
    prefixes = {path.name.removesuffix(f"{split}.txt") for split, path in paths.items()}
    if len(prefixes) > 1:
        raise DataError(f"{folder} mixes several sets: {', '.join(sorted(prefixes))}")
    lines = {split: _lines(path) for split, path in paths.items()}
    return from_lines(lines, folder.name, {split: str(path) for split, path in paths.items()})


def from_lines(
    lines: dict[str, list[str]], source: str, names: dict[str, str] | None = None
) -> TextData:
    """The streams of three lists of sentences, "train", "valid" and "test"."""
    names = names or {split: f"{source}, {split} split" for split in SPLITS}
    for split in SPLITS:
        if not lines[split]:
            raise DataError(f"{names[split]} is empty")
        for number, line in enumerate(lines[split], start=1):
            if not line.split():
                raise DataError(f"{names[split]}, line {number} is empty: remove it")
    counts = Counter(_words(lines["train"]))
    vocab = sorted(counts, key=lambda word: (-counts[word], word))
    number_of = {word: number for number, word in enumerate(vocab)}
    streams = {
        split: torch.tensor(list(_numbers(lines[split], number_of, names[split])))
        for split in SPLITS
    }
    sizes = " / ".join(f"{len(streams[split]):,}" for split in SPLITS)
    found = f"text in {source}: {sizes} words, {len(vocab):,} different ones, {EOS} included"
    return TextData(streams["train"], streams["valid"], streams["test"], tuple(vocab), found)


def _words(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield from line.split()
        yield EOS


def _numbers(lines: list[str], number_of: dict[str, int], name: str) -> Iterator[int]:
    for row, line in enumerate(lines, start=1):
        for word in line.split():
            if word not in number_of:
                raise DataError(
                    f"{name}, line {row}: {word!r} never occurs in the training split; write "
                    "<unk> for rare words in all three"
                )
            yield number_of[word]
        yield number_of[EOS]


def _find(folder: Path, split: str) -> Path:
    found = sorted(folder.glob(f"*{split}.txt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder} has to hold one *{split}.txt, it has {names}")
    return found[0]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {row} is no UTF-8 ({error.reason}): convert it") from None
    # Not splitlines(): that also splits at form feeds and other characters inside a sentence.
    return text.removesuffix("\n").split("\n") if text else []
