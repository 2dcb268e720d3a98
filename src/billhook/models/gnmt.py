"""GNMT (Wu et al. 2016, arXiv 1609.08144) as tensorflow/nmt's four-layer configuration has it.

Encoder: one bidirectional and three unidirectional LSTM layers. Decoder: four LSTM layers and
``gnmt_v2`` attention: normed Bahdanau, the bottom layer's output asks, every upper layer reads the
new context. The last two layers of each side are residual.

Shapes: B sentences, S source and T target positions, U units, V words.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from billhook.models.lstm import OneBiasLSTM

__all__ = ["GNMT", "DecoderState", "NormedBahdanau", "gnmt"]

# Inferred: 32k merges give a side this vocabulary, and with it all four of Table 4's counts fit.
WMT16_VOCAB = 36_548
LAYERS = 4
RESIDUAL_FROM = 2  # layers 0 and 1 of encoder and decoder have no residual connection
INIT_SCALE = 0.1
FORGET_BIAS = 1.0

State = tuple[torch.Tensor, torch.Tensor]


class DecoderState(NamedTuple):
    """What the decoder carries from one target position to the next; batch sizes all B."""

    hidden: torch.Tensor  # (B, 4, U)
    cell: torch.Tensor  # (B, 4, U)
    context: torch.Tensor  # (B, U), the attention's last answer
    memory: torch.Tensor  # (B, S, U), the encoder's outputs
    keys: torch.Tensor  # (B, S, U), the memory as the attention compares it
    padding: torch.Tensor  # (B, S), True behind the end of a source sentence

    def select(self, rows: torch.Tensor) -> "DecoderState":
        """The state of these sentences, int64 of any length, repeats allowed (beam search)."""
        return DecoderState(*(tensor.index_select(0, rows) for tensor in self))


class NormedBahdanau(nn.Module):
    """score(q, k) = g * (v / |v|) . tanh(W_k k + W_q q + b), softmax over the source."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.memory = nn.Linear(units, units, bias=False)
        self.query = nn.Linear(units, units, bias=False)
        self.v = nn.Parameter(torch.empty(units))
        self.g = nn.Parameter(torch.empty(()))
        self.b = nn.Parameter(torch.empty(units))

    def forward(self, query: torch.Tensor, state: DecoderState) -> torch.Tensor:
        """Query ``(B, U)`` to context ``(B, U)``."""
        v = self.g * self.v / torch.linalg.vector_norm(self.v)
        scores = torch.tanh(state.keys + self.query(query).unsqueeze(1) + self.b) @ v
        weights = scores.masked_fill(state.padding, float("-inf")).softmax(dim=1)
        context: torch.Tensor = (weights.unsqueeze(1) @ state.memory).squeeze(1)
        return context


class GNMT(nn.Module):
    """Source ``(B, S)`` and target ``(B, T)``, int64, to logits ``(B, T, V)``.

    Source positions from a sentence's length on are padding and change nothing. ``encode`` and
    ``decode`` are the two halves; decoding a target in pieces equals decoding it at once.
    """

    # Table 4's counts leave attention (and, as ever, biases) dense.
    prune_rules: ClassVar[Mapping[str | type[nn.Module], float | None]] = {
        "attention.memory.weight": None,
        "attention.query.weight": None,
    }

    def __init__(
        self, units: int, source_vocab: int, target_vocab: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.units = units
        self.source_embedding = nn.Embedding(source_vocab, units)
        self.target_embedding = nn.Embedding(target_vocab, units)
        self.bidirectional = OneBiasLSTM(units, units, batch_first=True, bidirectional=True)
        self.encoder = nn.ModuleList(
            OneBiasLSTM(2 * units if layer == 1 else units, units, batch_first=True)
            for layer in range(1, LAYERS)
        )
        self.attention = NormedBahdanau(units)
        self.decoder = nn.ModuleList(
            OneBiasLSTM(2 * units, units, batch_first=True) for _ in range(LAYERS)
        )
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(units, target_vocab, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-0.1; LSTM biases zero, the forget gate's 1; g = 1/sqrt(U), b = 0."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INIT_SCALE, INIT_SCALE)
        for lstm in self.modules():
            if isinstance(lstm, OneBiasLSTM):
                for name, bias in lstm.named_parameters():
                    if name.startswith("bias"):
                        nn.init.zeros_(bias)
                        nn.init.constant_(bias[self.units : 2 * self.units], FORGET_BIAS)
        nn.init.constant_(self.attention.g, self.units**-0.5)
        nn.init.zeros_(self.attention.b)

    def forward(
        self, source: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        logits, _ = self.decode(target, self.encode(source, lengths))
        return logits

    def encode(self, source: torch.Tensor, lengths: torch.Tensor) -> DecoderState:
        """The decoder's first state for sources ``(B, S)`` of these lengths ``(B,)``, all >= 1."""
        x, (hidden, cell) = _over_sentences(
            self.bidirectional, self.dropout(self.source_embedding(source)), lengths
        )
        # The backward direction's final state starts decoder layer 0.
        hiddens, cells = [hidden[1]], [cell[1]]
        for layer, lstm in enumerate(self.encoder, start=1):
            out, (hidden, cell) = _over_sentences(lstm, self.dropout(x), lengths)
            x = out + x if layer >= RESIDUAL_FROM else out
            hiddens.append(hidden[0])
            cells.append(cell[0])
        positions = torch.arange(source.shape[1], device=source.device)
        padding = positions >= lengths.to(source.device).unsqueeze(1)
        x = x.masked_fill(padding.unsqueeze(2), 0.0)
        return DecoderState(
            hidden=torch.stack(hiddens, dim=1),
            cell=torch.stack(cells, dim=1),
            context=x.new_zeros(x.shape[0], self.units),
            memory=x,
            keys=self.attention.memory(x),
            padding=padding,
        )

    def decode(
        self, target: torch.Tensor, state: DecoderState
    ) -> tuple[torch.Tensor, DecoderState]:
        """Logits ``(B, T, V)`` for what follows each target word ``(B, T)``, and the new state."""
        x, context, (hidden, cell) = self._attend(self.target_embedding(target), state)
        last_context = context[:, -1]
        hiddens, cells = [hidden], [cell]
        for layer in range(1, LAYERS):
            before = _layer_state(state, layer)
            inputs = self.dropout(torch.cat([x, context], dim=2))
            out, (hidden, cell) = self.decoder[layer](inputs, before)
            x = out + x if layer >= RESIDUAL_FROM else out
            hiddens.append(hidden)
            cells.append(cell)
        return self.projection(x), state._replace(
            hidden=torch.cat(hiddens).transpose(0, 1),
            cell=torch.cat(cells).transpose(0, 1),
            context=last_context,
        )

    def _attend(
        self, embedded: torch.Tensor, state: DecoderState
    ) -> tuple[torch.Tensor, torch.Tensor, State]:
        """The bottom layer, word by word: its input holds the context its last output asked for.

        Returns its outputs and the new contexts, both ``(B, T, U)``, and its final state.
        """
        context, carried = state.context, _layer_state(state, 0)
        outputs, contexts = [], []
        for word in embedded.unbind(dim=1):
            inputs = self.dropout(torch.cat([word, context], dim=1)).unsqueeze(1)
            output, carried = self.decoder[0](inputs, carried)
            context = self.attention(output.squeeze(1), state)
            outputs.append(output.squeeze(1))
            contexts.append(context)
        return torch.stack(outputs, dim=1), torch.stack(contexts, dim=1), carried


def _layer_state(state: DecoderState, layer: int) -> State:
    """nn.LSTM's (h, c), each (1, B, U), of one decoder layer."""
    hidden, cell = state.hidden[:, layer], state.cell[:, layer]
    return hidden.unsqueeze(0).contiguous(), cell.unsqueeze(0).contiguous()


def _over_sentences(
    lstm: nn.Module, x: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, State]:
    """``lstm`` over (B, S, ...) that ends each sentence at its own length."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    out, state = lstm(packed)
    padded, _ = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
    return padded, state


def gnmt(
    units: int = 1024,
    source_vocab: int = WMT16_VOCAB,
    target_vocab: int = WMT16_VOCAB,
    dropout: float = 0.2,
) -> GNMT:
    """GNMT with four layers on each side.

    256 / 512 / 768 / 1024 units have 34.24 / 80.80 / 139.68 / 210.88 million parameters with the
    default vocabularies (Table 4 of Zhu & Gupta 2017).

    Args:
        units: Of every layer, both embeddings and the attention.
        source_vocab: Words of the source side; the two sides share nothing.
        target_vocab: Words of the target side.
        dropout: On the input of every LSTM layer, training only.

    >>> import torch
    >>> model = gnmt(units=8, source_vocab=20, target_vocab=30)
    >>> source, lengths = torch.ones(2, 5, dtype=torch.long), torch.tensor([5, 3])
    >>> model(source, lengths, torch.ones(2, 7, dtype=torch.long)).shape
    torch.Size([2, 7, 30])
    """
    return GNMT(units, source_vocab, target_vocab, dropout)
