"""A task from a recipe and the place of its data; or from synthetic data of the recipe's shapes."""

from pathlib import Path

import torch

from billhook.data.images import ArrayImages, ImageData, load_images
from billhook.tasks.classification import Classification
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import ALONE, Shard, Task

__all__ = ["build_task", "synthetic_task"]


def build_task(recipe: Recipe, data: Path | None, shard: Shard = ALONE) -> Task:
    """The task of the recipe's family on the data in a folder, or on the embedded set for None.

    Raises:
        DataError: the folder does not hold what the family needs.
    """
    return Classification(recipe, load_images(data), shard)


def synthetic_task(recipe: Recipe) -> Task:
    """The full model with just enough noise in place of data for one training step."""
    size, pixels = recipe.training.batch_size, recipe.data.pixels
    classes = int(recipe.model.get("num_classes") or 10)
    noise = ArrayImages(
        torch.randint(256, (size, 3, pixels, pixels), dtype=torch.uint8),
        torch.arange(size) % classes,
    )
    names = tuple(map(str, range(classes)))
    return Classification(recipe, ImageData(noise, noise, names, "noise"))
