"""Language modelling as in tensorflow/models' ptb_word_lm: perplexity, state carried over."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from billhook.data.text import TextData
from billhook.errors import DataError
from billhook.models.ptb_lstm import State
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import ALONE, Metric, Shard, Task

__all__ = ["LanguageModelling", "perplexity"]

EVALUATION_WINDOW = 512  # words or characters at a time, and of a row's lead-in
CHARACTER_ROWS = 32  # a text has several times as many characters as words


class LanguageModelling(Task):
    """The PTB LSTM on one stream of words or characters, cut into ``batch_size`` rows that
    are read side by side.

    The hidden state goes from window to window and starts at zero in every epoch. As in the
    original, what does not fill the last window of a training epoch is left out; evaluation leaves
    out nothing.

    The vocabulary is the data's, unless ``[model] vocab`` is larger.

    Args:
        recipe: rows, window, seed; the model unless one is given.
        data: the words or characters.
        shard: this process's share.
        model: any network from words ``(rows, time)`` and a state, or None, to logits
            ``(rows, time, vocabulary)`` and the state ``(h, c)``.
    """

    metrics = (Metric("perplexity", higher_is_better=False, scale=1.0, unit="", digits=2),)
    learns_from_teachers = True

    def __init__(
        self,
        recipe: Recipe,
        data: TextData,
        shard: Shard = ALONE,
        model: nn.Module | None = None,
    ) -> None:
        size, self.window = recipe.training.batch_size, recipe.data.window
        shard.check(size)
        self.data, self.data_description = data, data.description
        units = f"{data.unit}s"
        given = {} if model is not None else recipe.model
        self.arguments: dict[str, Any] = {"vocab": len(data.vocab)} | given
        if self.arguments["vocab"] < len(data.vocab):
            raise DataError(
                f"the data has {len(data.vocab):,} different {units} ({data.description}), the "
                f"model's vocabulary {self.arguments['vocab']:,}: raise [model] vocab, or set "
                "[data] vocab"
            )
        self.model = FAMILIES[recipe.family].build(**self.arguments) if model is None else model
        if len(data.train) < recipe.data.train:
            raise DataError(
                f"[data] train {recipe.data.train:,} is more than the {len(data.train):,} {units} "
                f"there are ({data.description})"
            )
        words = data.train[: recipe.data.train] if recipe.data.train else data.train
        self.examples_per_step = size * self.window
        length = len(words) // size
        self.steps_per_epoch = (length - 1) // self.window
        if self.steps_per_epoch < 1:
            raise DataError(
                f"{len(words):,} {units} in {size} rows do not fill one window of {self.window}"
            )
        rows = words[: size * length].reshape(size, length)
        self.rows = rows[shard.rank :: shard.world]
        self.state: State | None = None
        self.teachers_state: State | None = None

    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:  # noqa: ARG002
        """Words ``(rows, window)`` and the same moved on by one; the first resets the state."""
        if start == 0:
            self.state = self.teachers_state = None
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
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten()) * self.window
        if self.teacher is None:
            return loss
        expected, self.teachers_state = self.teacher(words, self.teachers_state)
        return self.teacher.mix(loss, logits, expected, scale=self.window)

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """One row ``(1, window)``; the state starts at zero."""
        return (self.rows[:1, : self.window],)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """``perplexity`` over the whole stream of "valid" or "test"; characters in 32 rows."""
        stream = self.data.valid if split == "valid" else self.data.test
        rows = 1 if self.data.unit == "word" else CHARACTER_ROWS
        return {"perplexity": perplexity(model, stream, rows)}

    def state_dict(self) -> dict[str, Any]:
        """The hidden states, which the next window starts from."""
        states = {"": self.state, "teachers_": self.teachers_state}
        return {
            f"{whose}{name}": value
            for whose, state in states.items()
            if state is not None
            for name, value in zip(("hidden", "cell"), state, strict=True)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.state, self.teachers_state = (
            (state[f"{whose}hidden"], state[f"{whose}cell"]) if f"{whose}hidden" in state else None
            for whose in ("", "teachers_")
        )


def perplexity(model: nn.Module, stream: torch.Tensor, rows: int = 1) -> float:
    """exp of the mean cross-entropy of symbols 1 to N - 1 of a stream ``(N,)``, each once.

    One row: the state is carried from the first symbol to the last, and each is predicted from all
    before it. With more rows, parts of the stream are read side by side, which is faster: each
    part begins with a state that has read the 512 symbols before the part, or as many as there
    are, and goes on from there. The model is used as it is: put it in evaluation mode.

    >>> import billhook.models
    >>> model = billhook.models.ptb_lstm(hidden=4, vocab=7, init_scale=0.0)
    >>> round(perplexity(model, torch.arange(7)), 5)  # knows nothing: all words equally likely
    7.0
    """
    device = next(model.parameters()).device
    count = len(stream) - 1
    length = -(-count // min(rows, count))
    rows = -(-count // length)
    lead = min(EVALUATION_WINDOW, length) if rows > 1 else 0
    # Row r predicts symbols r * length + 1 and on; what is before or behind the stream is padding.
    padded = F.pad(stream, (lead, rows * length - count))
    following = F.pad(stream[1:], (0, rows * length - count), value=_NOTHING).reshape(rows, length)
    parts = padded[:-1].unfold(0, lead + length, length)
    total, state = 0.0, None
    with torch.no_grad():
        if lead:
            # The first row has nothing before it: its state stays zero.
            _, (hidden, cell) = model(parts[1:, :lead].to(device), None)
            state = tuple(F.pad(each, (0, 0, 1, 0)) for each in (hidden, cell))
        for begin in range(0, length, EVALUATION_WINDOW):
            end = min(begin + EVALUATION_WINDOW, length)
            logits, state = model(parts[:, lead + begin : lead + end].to(device), state)
            wanted = following[:, begin:end].to(device)
            total += float(
                F.cross_entropy(
                    logits.flatten(0, 1),
                    wanted.flatten(),
                    reduction="sum",
                    ignore_index=_NOTHING,
                )
            )
    return math.exp(total / count)


_NOTHING = -100  # no symbol: torch's own mark for targets that do not count
