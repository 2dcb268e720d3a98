"""Translation with GNMT: cross-entropy, greedy and beam search, BLEU by sacrebleu."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from billhook.data import bpe
from billhook.data.parallel import Pairs, ParallelData
from billhook.errors import DataError
from billhook.models.gnmt import GNMT, DecoderState
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe
from billhook.tasks.search import beam_search, greedy_search
from billhook.tasks.task import ALONE, Metric, Shard, Task, epoch_order

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Translation", "bucketed", "translate"]

BEAM = 10
LENGTH_PENALTY = 1.0
POOL = 50  # batches whose sentences are sorted by length together
EVALUATION_BATCH = 32
LENGTH_FACTOR = 2  # a translation is at most this many times as long as its source
EXAMPLES = 5

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Translation(Task):
    """GNMT on parallel text, cut into pieces by one BPE vocabulary a side, learnt from training.

    Training pairs of more than ``max_length`` pieces on a side are left out, and counted. A batch
    holds sentences of similar length. The vocabularies are the data's unless the recipe sets
    ``[model] source_vocab`` and ``target_vocab``, which then have to hold them.
    """

    metrics = (
        Metric("bleu", higher_is_better=True, scale=1.0, unit="BLEU", digits=2, test_only=True),
        Metric("bleu_greedy", True, scale=1.0, unit="BLEU", digits=2, test_only=True),
        Metric("perplexity", higher_is_better=False, scale=1.0, unit="", digits=2),
    )
    learns_from_teachers = True

    def __init__(self, recipe: Recipe, data: ParallelData, shard: Shard = ALONE) -> None:
        shard.check(recipe.training.batch_size)
        self.recipe, self.shard = recipe, shard
        longest = recipe.data.max_length
        learnt = _learn_pieces(data, recipe.data.pieces)
        (self.source_bpe, self.source), (self.target_bpe, self.target) = learnt
        self.lengths = torch.maximum(self.source.lengths, self.target.lengths)
        if len(self.lengths) < recipe.data.train:
            raise DataError(
                f"[data] train {recipe.data.train:,} is more than the {len(self.lengths):,} pairs "
                f"there are ({data.description})"
            )
        usable = self.lengths[: recipe.data.train] if recipe.data.train else self.lengths
        self.pairs = torch.nonzero(usable <= longest).flatten()
        self.examples_per_step = recipe.training.batch_size
        self.texts = {"valid": data.valid, "test": data.test}
        self.data_description = (
            f"{data.description}; {len(usable) - len(self.pairs):,} training pairs of more than "
            f"{longest} pieces left out"
        )
        self.steps_per_epoch = len(self.pairs) // recipe.training.batch_size
        if not self.steps_per_epoch:
            raise DataError(
                f"{len(self.pairs):,} training pairs of up to {longest} pieces do not fill one "
                f"batch of {recipe.training.batch_size} ({self.data_description})"
            )
        self.arguments = self._arguments(recipe.model)
        self.model = FAMILIES[recipe.family].build(**self.arguments)

    def _arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        sizes = {
            "source_vocab": self.source_bpe.get_vocab_size(),
            "target_vocab": self.target_bpe.get_vocab_size(),
        }
        for name, size in sizes.items():
            if given.get(name, size) < size:
                raise DataError(
                    f"the BPE has {size:,} pieces ({self.data_description}), the model's {name} is "
                    f"{given[name]:,}: raise it, or lower [data] pieces"
                )
        return sizes | given

    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:
        """Source, its lengths, target in, target out; see :func:`pad_batch` for the shapes."""
        size, seed = self.recipe.training.batch_size, self.recipe.training.seed
        order = self.pairs[epoch_order(len(self.pairs), seed, epoch)]
        batches = bucketed(order, self.lengths, size)
        mixed = epoch_order(len(batches), seed + 1, epoch).tolist()
        for index in mixed[start:]:
            rows = batches[index][self.shard.rank :: self.shard.world].tolist()
            yield self._batch(rows, device)

    def _batch(self, rows: Sequence[int], device: torch.device) -> Batch:
        sources = [self.source.sentence(row) for row in rows]
        targets = [self.target.sentence(row) for row in rows]
        return pad_batch(sources, targets, device)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Cross-entropy summed over the pieces and divided by the sentences, as tensorflow/nmt's.

        That is the loss whose gradient the recipe's learning rate and clipping bound belong to.
        """
        source, lengths, target, following = batch
        logits = model(source, lengths, target)
        loss = _cross_entropy(logits, following) / len(source)
        if self.teacher is None:
            return loss
        padding = following == bpe.PAD
        return self.teacher.mix(
            loss,
            logits,
            self.teacher(source, lengths, target),
            following.masked_fill(padding, -100),
            scale=(~padding).sum() / len(source),
        )

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """The first pair: source, its length and target, whose pieces are all given."""
        source, lengths, target, _ = self._batch([int(self.pairs[0])], torch.device("cpu"))
        return source, lengths, target

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """``perplexity`` a piece; on "test" also ``bleu_greedy``, ``bleu`` (beam) and signature."""
        texts = self.texts[split]
        metrics: dict[str, float | str] = {"perplexity": self._perplexity(model, texts)}
        if split == "test":
            from sacrebleu.metrics.bleu import BLEU

            metric = BLEU()
            greedy = self.translate(model, texts.source, beam=1)
            metrics["bleu_greedy"] = metric.corpus_score(greedy, [texts.target]).score
            best = self.translate(model, texts.source, beam=BEAM)
            metrics["bleu"] = metric.corpus_score(best, [texts.target]).score
            metrics["signature"] = str(metric.get_signature())
            metrics["beam"], metrics["length_penalty"] = BEAM, LENGTH_PENALTY
        return metrics

    def translate(self, model: nn.Module, sentences: Sequence[str], beam: int) -> list[str]:
        """Plain sentences to plain sentences."""
        assert isinstance(model, GNMT)
        encoded = bpe.encode(self.source_bpe, sentences)
        sources = [encoded.sentence(i) for i in range(len(sentences))]
        return bpe.decode(self.target_bpe, translate(model, sources, beam))

    def examples(self, model: nn.Module) -> list[dict[str, str]]:
        """The first test sentences with reference and translation."""
        texts = self.texts["test"]
        outputs = self.translate(model, texts.source[:EXAMPLES], BEAM)
        return [
            {"source": source, "reference": reference, "output": output}
            for source, reference, output in zip(texts.source, texts.target, outputs, strict=False)
        ]

    def _perplexity(self, model: nn.Module, texts: Pairs) -> float:
        device = next(model.parameters()).device
        source = bpe.encode(self.source_bpe, texts.source)
        target = bpe.encode(self.target_bpe, texts.target)
        total, count = 0.0, 0
        order = torch.arange(len(texts.source))
        with torch.no_grad():
            for rows in bucketed(order, source.lengths, EVALUATION_BATCH, whole=False):
                inputs, lengths, target_in, following = pad_batch(
                    [source.sentence(int(i)) for i in rows],
                    [target.sentence(int(i)) for i in rows],
                    device,
                )
                total += float(_cross_entropy(model(inputs, lengths, target_in), following))
                count += int((following != bpe.PAD).sum())
        return math.exp(total / count)


@functools.lru_cache(1)
def _learn_pieces(data: ParallelData, pieces: int) -> "tuple[tuple[Tokenizer, bpe.Encoded], ...]":
    """A BPE vocabulary of each side's training sentences, and these in its pieces."""
    found = []
    for sentences in (data.train.source, data.train.target):
        vocabulary = bpe.train_bpe(sentences, pieces)
        found.append((vocabulary, bpe.encode(vocabulary, sentences)))
    return tuple(found)


def pad_batch(
    sources: list[torch.Tensor], targets: list[torch.Tensor], device: torch.device
) -> Batch:
    """Source ``(B, S)`` with its end, lengths ``(B,)``, target from its begin, target to its end.

    >>> source, lengths, target, following = pad_batch(
    ...     [torch.tensor([7, 8])], [torch.tensor([9])], torch.device("cpu"))
    >>> source.tolist(), lengths.tolist(), target.tolist(), following.tolist()
    ([[7, 8, 2]], [3], [[1, 9]], [[9, 2]])
    """
    begin, end = torch.tensor([bpe.BOS]), torch.tensor([bpe.EOS])
    ended = [torch.cat([sentence, end]) for sentence in sources]
    lengths = torch.tensor([len(sentence) for sentence in ended])

    def pad(rows: list[torch.Tensor]) -> torch.Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=bpe.PAD).to(device)

    return (
        pad(ended),
        lengths,
        pad([torch.cat([begin, sentence]) for sentence in targets]),
        pad([torch.cat([sentence, end]) for sentence in targets]),
    )


def bucketed(
    order: torch.Tensor, lengths: torch.Tensor, batch_size: int, *, whole: bool = True
) -> list[torch.Tensor]:
    """``order`` cut into batches of similar length: sorted within pools of 50 batches.

    With ``whole`` the rest that fills no batch is left out.
    """
    pools = order.split(POOL * batch_size)
    sorted_pools = [pool[lengths[pool].argsort(stable=True)] for pool in pools]
    batches = [batch for pool in sorted_pools for batch in pool.split(batch_size)]
    return [batch for batch in batches if len(batch) == batch_size] if whole else batches


@torch.no_grad()
def translate(
    model: GNMT, sources: Sequence[torch.Tensor], beam: int, batch_size: int = EVALUATION_BATCH
) -> list[list[int]]:
    """Pieces of the translation of every source; ``beam=1`` is greedy. Use evaluation mode."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(source) for source in sources])
    results: list[list[int]] = [[] for _ in sources]

    def step(last: torch.Tensor, state: DecoderState) -> tuple[torch.Tensor, DecoderState]:
        logits, state = model.decode(last.unsqueeze(1), state)
        scores = logits[:, 0].float().log_softmax(dim=1)
        scores[:, [bpe.PAD, bpe.BOS]] = float("-inf")
        return scores, state

    for rows in lengths.argsort(stable=True).split(batch_size):
        batch, sizes, _, _ = pad_batch([sources[int(i)] for i in rows], [sources[0]], device)
        first = torch.full((len(rows),), bpe.BOS, device=device)
        state, longest = model.encode(batch, sizes), LENGTH_FACTOR * int(sizes.max())
        if beam == 1:
            found = greedy_search(step, state, first, bpe.EOS, longest)
        else:
            found = beam_search(
                step, state, first, bpe.EOS, longest, beam=beam, penalty_power=LENGTH_PENALTY
            )
        for row, pieces in zip(rows.tolist(), found, strict=True):
            results[row] = pieces
    return results


def _cross_entropy(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Summed over all pieces but padding."""
    return F.cross_entropy(
        logits.flatten(0, 1), following.flatten(), ignore_index=bpe.PAD, reduction="sum"
    )
