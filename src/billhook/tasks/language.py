"""Word language modelling as in tensorflow/models' ptb_word_lm: perplexity, state carried over."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from billhook.data.text import TextData
from billhook.errors import DataError
from billhook.models import ptb_lstm
from billhook.models.ptb_lstm import State
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import ALONE, Metric, Shard, Task

__all__ = ["LanguageModelling", "perplexity"]

EVALUATION_WINDOW = 512  # words at a time; changes speed and memory, not the result


class LanguageModelling(Task):
    """The PTB LSTM on one stream of words, cut into ``batch_size`` rows read side by side.

    The hidden state goes from window to window and starts at zero in every epoch. As in the
    original, what does not fill the last window of a training epoch is left out; evaluation leaves
    out nothing.

    The vocabulary is the data's, or its most frequent words where the recipe sets ``[data] vocab``,
    unless ``[model] vocab`` is larger.

    Args:
        recipe: rows, window, seed; the model unless one is given.
        data: the words.
        shard: this process's share.
        model: any network from words ``(rows, time)`` and a state, or None, to logits
            ``(rows, time, vocabulary)`` and the state ``(h, c)``.
    """

    metrics = (Metric("perplexity", higher_is_better=False, scale=1.0, unit="", digits=2),)

    def __init__(
        self,
        recipe: Recipe,
        data: TextData,
        shard: Shard = ALONE,
        model: nn.Module | None = None,
    ) -> None:
        size, self.window = recipe.training.batch_size, recipe.data.window
        shard.check(size)
        if recipe.data.vocab:
            data = data.with_vocab(recipe.data.vocab)
        self.data, self.found = data, data.found
        given = {} if model is not None else recipe.model
        self.arguments: dict[str, Any] = {"vocab": len(data.vocab)} | given
        if self.arguments["vocab"] < len(data.vocab):
            raise DataError(
                f"the data has {len(data.vocab):,} different words ({data.found}), the model's "
                f"vocabulary {self.arguments['vocab']:,}: raise [model] vocab, or set [data] vocab"
            )
        self.model = ptb_lstm(**self.arguments) if model is None else model
        if len(data.train) < recipe.data.train:
            raise DataError(
                f"[data] train {recipe.data.train:,} is more than the {len(data.train):,} words "
                f"there are ({data.found})"
            )
        words = data.train[: recipe.data.train] if recipe.data.train else data.train
        self.examples_per_step = size * self.window
        length = len(words) // size
        self.steps_per_epoch = (length - 1) // self.window
        if self.steps_per_epoch < 1:
            raise DataError(
                f"{len(words):,} words in {size} rows do not fill one window of {self.window}"
            )
        rows = words[: size * length].reshape(size, length)
        self.rows = rows[shard.rank :: shard.world]
        self.state: State | None = None

    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:  # noqa: ARG002
        """Words ``(rows, window)`` and the same moved on by one; the first resets the state."""
        if start == 0:
            self.state = None
        for index in range(start, self.steps_per_epoch):
            begin, end = index * self.window, (index + 1) * self.window
            yield (
                self.rows[:, begin:end].to(device),
                self.rows[:, begin + 1 : end + 1].to(device),
            )

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Cross-entropy summed over the window's steps, averaged over the rows, as the original's.

        That is the loss whose gradient the recipes' learning rate of 1.0 and clipping bounds of 5
        and 10 belong to.
        """
        words, following = batch
        logits, state = model(words, self.state)
        self.state = (state[0].detach(), state[1].detach())
        return F.cross_entropy(logits.flatten(0, 1), following.flatten()) * self.window

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """One row ``(1, window)``; the state starts at zero."""
        return (self.rows[:1, : self.window],)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """``perplexity`` over the whole stream of "valid" or "test"."""
        stream = self.data.valid if split == "valid" else self.data.test
        return {"perplexity": perplexity(model, stream)}

    def state_dict(self) -> dict[str, Any]:
        """The hidden state, which the next window starts from."""
        return {} if self.state is None else {"hidden": self.state[0], "cell": self.state[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.state = (state["hidden"], state["cell"]) if state else None


def perplexity(model: nn.Module, stream: torch.Tensor) -> float:
    """exp of the mean cross-entropy of words 1 to N - 1 of a stream ``(N,)``, all of them.

    One row, the state carried from the first word to the last: each word is predicted from all
    before it, exactly once. The model is used as it is: put it in evaluation mode.

    >>> import billhook.models
    >>> model = billhook.models.ptb_lstm(hidden=4, vocab=7, init_scale=0.0)
    >>> round(perplexity(model, torch.arange(7)), 5)  # knows nothing: all words equally likely
    7.0
    """
    device = next(model.parameters()).device
    total, state = 0.0, None
    with torch.no_grad():
        for begin in range(0, len(stream) - 1, EVALUATION_WINDOW):
            end = min(begin + EVALUATION_WINDOW, len(stream) - 1)
            logits, state = model(stream[begin:end].unsqueeze(0).to(device), state)
            following = stream[begin + 1 : end + 1].to(device)
            total += float(F.cross_entropy(logits[0], following, reduction="sum"))
    return math.exp(total / (len(stream) - 1))
