"""Small networks for vectors, sound and text."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from billhook.models import ptb_lstm

Inputs = tuple[Any, ...]


class Mlp(nn.Module):
    """Two inputs, two outputs; batch norm folded, and by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.layer = nn.Linear(20, 33), nn.BatchNorm1d(33), nn.LayerNorm(33)
        self.again, self.second = nn.BatchNorm1d(33), nn.Linear(33, 7)
        for norm in (self.norm, self.again):
            norm.running_mean.normal_()  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.again(self.layer(F.silu(self.norm(self.first(x))))) * torch.sigmoid(y.unsqueeze(1))
        return F.log_softmax(self.second(z), -1), torch.cat([x, y.unsqueeze(1)], 1)


class Audio(nn.Module):
    """Strided, dilated and transposed convolutions of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 8, 5, 2, 2), nn.BatchNorm1d(8)
        self.deep = nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up, self.last = nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.Conv1d(12, 1, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = F.leaky_relu(self.norm(self.first(x)), 0.2)
        z = self.up(F.max_pool1d(F.pad(self.deep(y), (1, 0)), 2, 2))
        joined = torch.cat([y, z.repeat_interleave(2, 2)[..., : y.shape[2]]], 1)
        return [torch.tanh(z), F.avg_pool1d(y, 3, 2, 1), self.last(joined).squeeze(1)]


class Tagger(nn.Module):
    """Both directions of two layers over embedded words."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], batch_first: bool) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(30, 12), nn.Linear(20, 5)
        self.cell = cell(12, 10, 2, bidirectional=True, batch_first=batch_first)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(self.embed(words))[0])  # type: ignore[no-any-return]


class Stream(nn.Module):
    """States in and out, so that a stream can be cut anywhere."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.cell, self.out = cell(6, 9, batch_first=True), nn.Linear(9, 3)

    def forward(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        y, state = self.cell(x, state)
        return self.out(y), state


class Crnn(nn.Module):
    """Columns of maps read by an LSTM, as for handwriting."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(16, 4)
        self.lstm = nn.LSTM(6 * 4, 8, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(F.relu(self.conv(x)), 2).permute(0, 3, 1, 2).flatten(2)
        return F.log_softmax(self.out(self.lstm(y)[0]), 2)


class Attention(nn.Module):
    """nn.TransformerEncoder, then products of computed tensors written out."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x, src_key_padding_mask=padding)
        y = self.attention(x, x, x, need_weights=False)[0]
        similar = torch.matmul(y, y.transpose(1, 2)) / 4
        return torch.bmm(similar.softmax(1).transpose(1, 2), x)


def tokens(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "MLP": (Mlp, lambda: (torch.randn(1, 20), torch.randn(1))),
    "audio": (Audio, lambda: (torch.randn(1, 2, 50),)),
    "LSTM": (lambda: Tagger(nn.LSTM, True), lambda: (tokens(30, 1, 7),)),
    "LSTM, time first": (lambda: Tagger(nn.LSTM, False), lambda: (tokens(30, 7, 1),)),
    "GRU": (lambda: Tagger(nn.GRU, True), lambda: (tokens(30, 2, 7),)),
    "LSTM stream": (
        lambda: Stream(nn.LSTM),
        lambda: (torch.randn(1, 5, 6), (torch.randn(1, 1, 9), torch.randn(1, 1, 9))),
    ),
    "GRU stream": (lambda: Stream(nn.GRU), lambda: (torch.randn(2, 5, 6), torch.randn(1, 2, 9))),
    "GRU, one step": (lambda: Stream(nn.GRU), lambda: (torch.randn(1, 1, 6), torch.randn(1, 1, 9))),
    "PTB LSTM": (lambda: ptb_lstm(hidden=16, vocab=40), lambda: (tokens(40, 1, 7),)),
    "CRNN": (Crnn, lambda: (torch.rand(1, 1, 8, 14),)),
    "attention": (
        Attention,
        lambda: (torch.rand(1, 9, 16), torch.tensor([[False] * 6 + [True] * 3])),
    ),
}
