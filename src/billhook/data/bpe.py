"""Byte-pair encoding with ``tokenizers``: sentences to numbers and back, without loss."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from billhook.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["BOS", "EOS", "PAD", "Encoded", "decode", "encode", "train_bpe"]

SPECIAL = ("<pad>", "<s>", "</s>")
PAD, BOS, EOS = range(3)
CHUNK = 100_000  # sentences encoded at a time
BYTES = 256


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Sentences one after the other, int32, and where each begins, int64 ``(N + 1,)``."""

    pieces: torch.Tensor
    offsets: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Pieces of every sentence, int64 ``(N,)``."""
        return self.offsets.diff()

    def sentence(self, index: int) -> torch.Tensor:
        """Its pieces, int64."""
        return self.pieces[self.offsets[index] : self.offsets[index + 1]].long()


def train_bpe(sentences: Iterable[str], size: int) -> "Tokenizer":
    """A byte-level BPE vocabulary of at most ``size`` pieces, three special ones included.

    The same sentences give the same vocabulary. There is no unknown piece: what was never seen is
    spelt in bytes.

    Raises:
        ConfigurationError: ``size`` does not even hold the 256 bytes.
    """
    if size < BYTES + len(SPECIAL):
        raise ConfigurationError(
            f"a BPE vocabulary of {size} pieces does not hold the {BYTES} bytes and {len(SPECIAL)} "
            "special pieces: use more"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def encode(tokenizer: "Tokenizer", sentences: Sequence[str]) -> Encoded:
    """The pieces of every sentence, without begin and end."""
    parts, lengths = [torch.empty(0, dtype=torch.int32)], [0]
    for start in range(0, len(sentences), CHUNK):
        encodings = tokenizer.encode_batch(list(sentences[start : start + CHUNK]))
        lengths += [len(encoding.ids) for encoding in encodings]
        flat = [piece for encoding in encodings for piece in encoding.ids]
        parts.append(torch.tensor(flat, dtype=torch.int32))
    return Encoded(torch.cat(parts), torch.tensor(lengths).cumsum(0))


def decode(tokenizer: "Tokenizer", pieces: Sequence[Sequence[int]]) -> list[str]:
    """Sentences from their pieces; special ones are left out."""
    return [text.strip() for text in tokenizer.decode_batch([list(row) for row in pieces])]
