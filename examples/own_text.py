"""A study of a network of your own on your own text, by characters.

    billhook study plan examples/own_text.toml --data FOLDER
    billhook study run examples/own_text.toml --data FOLDER

FOLDER has ``*.train.txt``, ``*.valid.txt`` and ``*.test.txt``. Without ``--data`` it reads prose
that ships with Python.
"""

from torch import Tensor, nn

State = tuple[Tensor, Tensor] | None


class Reader(nn.Module):
    """One LSTM over embedded characters; the state is what the last batch left."""

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, 32)
        self.cell = nn.LSTM(32, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, symbols: Tensor, state: State = None) -> tuple[Tensor, State]:
        hidden, state = self.cell(self.embed(symbols), state)
        return self.out(hidden), state


def network(width: float, vocab: int) -> nn.Module:
    """Characters ``(rows, time)`` and a state, to logits and the next state.

    The study gives ``vocab``, the number of different characters.
    """
    return Reader(int(width), vocab)
