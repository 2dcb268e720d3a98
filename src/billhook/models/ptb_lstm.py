"""The Penn Treebank word language model of Zaremba et al. 2014 (arXiv 1409.2329)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.models.lstm import OneBiasLSTM

__all__ = ["PTBLSTM", "SIZES", "Size", "ptb_lstm"]

LAYERS = 2
PTB_VOCAB = 10_000

State = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """Units a layer, dropout rate (1 - keep probability), half-width of the uniform init."""

    hidden: int
    dropout: float
    init_scale: float


SIZES = {
    "small": Size(hidden=200, dropout=0.0, init_scale=0.1),
    "medium": Size(hidden=650, dropout=0.5, init_scale=0.05),
    "large": Size(hidden=1500, dropout=0.65, init_scale=0.04),
}


class PTBLSTM(nn.Module):
    """Words ``(batch, time)``, int64, to logits ``(batch, time, vocab)`` and the final state.

    The state is nn.LSTM's ``(h, c)``, each ``(2, batch, hidden)``; hand it, detached, to the next
    window. Dropout acts on the embedded words, between the layers and before the softmax, never on
    the recurrent path. Embedding and softmax are not tied.
    """

    # "Embedding, LSTM and softmax are pruned alike": the default set, biases left.
    prune_rules: ClassVar[Mapping[str | type[nn.Module], float | None]] = {}

    def __init__(self, hidden: int, vocab: int, dropout: float, init_scale: float) -> None:
        super().__init__()
        self.init_scale = init_scale
        self.embedding = nn.Embedding(vocab, hidden)
        self.lstm = OneBiasLSTM(hidden, hidden, LAYERS, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.softmax = nn.Linear(hidden, vocab)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-init_scale, the softmax bias too; LSTM biases zero (forget bias 0)."""
        for name, parameter in self.named_parameters():
            if name.startswith("lstm.bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -self.init_scale, self.init_scale)

    def forward(
        self, words: torch.Tensor, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        x = self.dropout(self.embedding(words))
        x, state = self.lstm(x, state)
        return self.softmax(self.dropout(x)), state


def ptb_lstm(
    size: str | None = None,
    *,
    hidden: int | None = None,
    vocab: int = PTB_VOCAB,
    dropout: float | None = None,
    init_scale: float | None = None,
) -> PTBLSTM:
    """A two-layer LSTM language model, by the paper's ``size`` or by its number of units.

    small / medium / large have 200 / 650 / 1500 units and, with 10,000 words, 4,651,600 /
    19,775,200 / 66,022,000 parameters.

    Args:
        size: "small", "medium" or "large"; or None, and then ``hidden`` says how many units.
        hidden: Units of both layers and of the embedding.
        vocab: Words, end of sentence and unknown included.
        dropout: One minus the paper's keep probability; the size's own, or 0.
        init_scale: Weights start uniform in plus or minus this; the size's own, or 0.1.

    Raises:
        ConfigurationError: An unknown size, or not exactly one of ``size`` and ``hidden``.

    >>> import torch
    >>> logits, (h, c) = ptb_lstm(hidden=8, vocab=50)(torch.zeros(4, 6, dtype=torch.long))
    >>> logits.shape, h.shape
    (torch.Size([4, 6, 50]), torch.Size([2, 4, 8]))
    """
    if (size is None) == (hidden is None):
        raise ConfigurationError(
            f"size={size!r} and hidden={hidden!r}: give exactly one of them, "
            'as in ptb_lstm("small") or ptb_lstm(hidden=200)'
        )
    if size is not None and size not in SIZES:
        raise ConfigurationError(f"size {size!r} is not one of {', '.join(SIZES)}")
    base = SIZES[size] if size is not None else Size(hidden or 0, dropout=0.0, init_scale=0.1)
    return PTBLSTM(
        base.hidden,
        vocab,
        base.dropout if dropout is None else dropout,
        base.init_scale if init_scale is None else init_scale,
    )
