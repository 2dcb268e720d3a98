"""A task from a recipe and the place of its data; or from noise of the recipe's shapes."""

import functools
from pathlib import Path

import torch
from torch import nn

from billhook.data.images import ArrayImages, ImageData, load_images
from billhook.data.parallel import Pairs, ParallelData, load_parallel
from billhook.data.text import TextData, load_text
from billhook.errors import ConfigurationError
from billhook.models.ptb_lstm import PTB_VOCAB
from billhook.tasks.classification import Classification
from billhook.tasks.families import FAMILIES
from billhook.tasks.language import LanguageModelling
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import ALONE, Shard, Task
from billhook.tasks.translation import Translation

__all__ = ["build_task", "facts", "synthetic_task"]

# A study builds a task for every run and once more to measure it.
_images, _text = functools.lru_cache(1)(load_images), functools.lru_cache(1)(load_text)
_parallel = functools.lru_cache(1)(load_parallel)

BYTE_PIECES = 259  # the smallest BPE: one piece per byte, and the special ones


def build_task(
    recipe: Recipe,
    data: Path | None,
    shard: Shard = ALONE,
    *,
    kind: str | None = None,
    model: nn.Module | None = None,
) -> Task:
    """The task of the recipe's family on the data in a folder, or on the embedded set for None.

    With ``model``, a network of the caller's own learns it; ``kind`` is then "classification" or
    "language".

    Raises:
        DataError: the folder does not hold what the family needs.
    """
    kind = kind or FAMILIES[recipe.family].kind
    if kind == "language":
        text = _text(data, recipe.data.unit, recipe.data.vocab)
        return LanguageModelling(recipe, text, shard, model)
    if kind == "translation":
        pairs = _parallel(data, recipe.data.source, recipe.data.target)
        return Translation(recipe, pairs, shard)
    return Classification(recipe, _images(data), shard, model)


def facts(kind: str, recipe: Recipe, data: Path | None) -> dict[str, int]:
    """What the data ask of a network of the caller's own, by the names its function may use.

    "vocab" for language: how many words or characters it predicts; "classes" and "pixels" for
    classification: how many logits, and the sides of the pictures.
    """
    if kind == "language":
        return {"vocab": len(_text(data, recipe.data.unit, recipe.data.vocab).vocab)}
    return {"classes": len(_images(data).classes), "pixels": recipe.data.pixels}


def synthetic_task(recipe: Recipe) -> Task:
    """The full model with noise in place of data, enough for one step of the full shape."""
    recipe = recipe.changed(data={"workers": 0, "train": 0, "validation": 0.0})
    kind = FAMILIES[recipe.family].kind
    if kind == "language":
        return LanguageModelling(recipe, _words(recipe))
    if kind == "translation":
        vocab = recipe.data.pieces
        full = recipe.changed(
            model={"source_vocab": vocab, "target_vocab": vocab},
            data={"pieces": BYTE_PIECES},
        )
        return Translation(full, _letters(recipe))
    return Classification(recipe, _pictures(recipe))


def _pictures(recipe: Recipe) -> ImageData:
    size, pixels = recipe.training.batch_size, recipe.data.pixels
    classes = int(recipe.model.get("num_classes") or 10)
    pictures = torch.randint(256, (size, 3, pixels, pixels), dtype=torch.uint8)
    noise = ArrayImages(pictures, torch.arange(size) % classes)
    return ImageData(noise, noise, tuple(map(str, range(classes))), "noise")


def _words(recipe: Recipe) -> TextData:
    unit = recipe.data.unit
    vocab = recipe.data.vocab or recipe.model.get("vocab") or (PTB_VOCAB if unit == "word" else 0)
    if not isinstance(vocab, int) or vocab < 1:
        raise ConfigurationError(
            "how many different characters there are is known from the data: give --data, or "
            "vocab in [overrides.model]"
        )
    words = torch.randint(vocab, (recipe.training.batch_size * (recipe.data.window + 1),))
    return TextData(words, words, words, tuple(map(str, range(vocab))), "noise", unit)


def _letters(recipe: Recipe) -> ParallelData:
    # The leading blank is a piece too.
    letters = torch.randint(26, (recipe.training.batch_size, recipe.data.max_length - 1))
    lines = ["".join(chr(97 + int(letter)) for letter in row) for row in letters]
    pairs = Pairs(lines, lines)
    return ParallelData(pairs, pairs, pairs, "noise")
