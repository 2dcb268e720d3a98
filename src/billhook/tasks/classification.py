"""Image classification: cross-entropy with label smoothing; top-1 and top-5."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from billhook.data.images import ImageData, ImageSet
from billhook.errors import ConfigurationError, DataError
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Data, Recipe
from billhook.tasks.task import ALONE, CALIBRATED, Metric, Shard, Task, epoch_order

__all__ = ["Classification", "top_k_correct"]

EVALUATION_BATCH = 250
HELD_OUT_SEED = 0  # not the run's: every run holds out the same pictures


class Classification(Task):
    """MobileNetV1 or InceptionV3 on labelled pictures, scaled to [-1, 1] as slim does.

    ``[model] num_classes`` is the data's unless the recipe sets it: to as many, or to one more,
    which leaves slim's background class 0 to nothing. The image sets have two splits: "valid" is
    the share ``[data] validation`` of the training pictures, held out, the same ones for every
    seed; where that is 0, it is the test split, as is the custom on ImageNet. With ``[data] train``
    so many of the other pictures are trained on, the same ones for every seed too.

    Args:
        recipe: pixels, augmentation, batch size, smoothing, seed; the model unless one is given.
        data: the pictures.
        shard: this process's share.
        model: any network from ``(N, 3, pixels, pixels)`` to a logit a class.
    """

    metrics = (
        Metric("top1", higher_is_better=True, scale=1.0, unit="points", digits=2),
        Metric("top5", higher_is_better=True, scale=1.0, unit="points", digits=2),
        Metric("loss", higher_is_better=False, scale=1.0, unit="nats", digits=4),
    )
    learns_from_teachers = True

    def __init__(
        self,
        recipe: Recipe,
        data: ImageData,
        shard: Shard = ALONE,
        model: nn.Module | None = None,
    ) -> None:
        shard.check(recipe.training.batch_size)
        self.recipe, self.data, self.shard = recipe, data, shard
        self.data_description = data.description
        given = {} if model is not None else recipe.model
        self.arguments: dict[str, Any] = {"num_classes": len(data.classes)} | given
        self.label_offset = int(self.arguments["num_classes"]) - len(data.classes)
        if self.label_offset not in (0, 1):
            raise DataError(
                f"the model has num_classes {self.arguments['num_classes']}, the data "
                f"{len(data.classes)} classes ({data.description}): they have to be equal, or one "
                "more in the model for slim's background class"
            )
        self.model = FAMILIES[recipe.family].build(**self.arguments) if model is None else model
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1 - recipe.training.batch_norm_decay
        self.train_rows, valid_rows = _subsets(recipe, data)
        every = torch.arange(len(data.test.labels))
        self.validates_on_test = not len(valid_rows)
        self.splits = {
            "valid": (data.test, every) if self.validates_on_test else (data.train, valid_rows),
            "test": (data.test, every),
        }
        self.examples_per_step = recipe.training.batch_size
        self.steps_per_epoch = len(self.train_rows) // recipe.training.batch_size
        if not self.steps_per_epoch:
            raise DataError(
                f"{len(self.train_rows)} training pictures do not fill one batch of "
                f"{recipe.training.batch_size}"
            )
        self.augment = _augmentation(recipe)

    def batches(self, epoch: int, start: int, device: torch.device) -> Iterator[Any]:
        """Images ``(B, 3, p, p)`` in [0, 1] and labels ``(B,)``; the last, unfull batch is left."""
        size = self.recipe.training.batch_size
        order = epoch_order(len(self.train_rows), self.recipe.training.seed, epoch)
        order = self.train_rows[order]
        rows = [
            order[i * size : (i + 1) * size][self.shard.rank :: self.shard.world].tolist()
            for i in range(start, self.steps_per_epoch)
        ]
        crop_seed = self.recipe.training.seed * 1_000_003 + epoch
        yield from self._load(self.data.train, rows, crop_seed, device)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Mean cross-entropy, the auxiliary head's added with ``aux_weight``."""
        images, labels = batch
        inputs = _for_model(self.augment(images))
        out = model(inputs)
        main, *aux = [out] if isinstance(out, torch.Tensor) else out
        smoothing = self.recipe.training.label_smoothing
        loss = F.cross_entropy(main, labels, label_smoothing=smoothing)
        for logits in aux:
            extra = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            loss = loss + self.recipe.training.aux_weight * extra
        return loss if self.teacher is None else self.teacher.mix(loss, main, self.teacher(inputs))

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """One picture ``(1, 3, pixels, pixels)``."""
        row = [int(self.train_rows[0])]
        settings = self.recipe.data
        batch = self.data.train.batch(row, settings.pixels, None, crop=settings.crop)
        return (_for_model(batch),)

    def calibration(self) -> list[tuple[torch.Tensor, ...]]:
        """Training pictures as the model takes them, not augmented."""
        settings, size = self.recipe.data, 32
        chosen = [self.train_rows[i : i + size] for i in range(0, CALIBRATED, size)]
        return [
            (
                _for_model(
                    self.data.train.batch(rows.tolist(), settings.pixels, None, crop=settings.crop)
                ),
            )
            for rows in chosen
            if len(rows)
        ]

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float | str]:
        """``top1`` and ``top5`` in percent, mean ``loss`` without smoothing."""
        device = next(model.parameters()).device
        images, indices = self.splits[split]
        count = len(indices)
        rows = [chunk.tolist() for chunk in indices.split(EVALUATION_BATCH)]
        correct, loss = {1: 0, 5: 0}, 0.0
        for pictures, labels in self._load(images, rows, None, device):
            logits = model(_for_model(pictures))
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            for k in correct:
                correct[k] += top_k_correct(logits, labels, min(k, logits.shape[1]))
        return {
            "top1": 100 * correct[1] / count,
            "top5": 100 * correct[5] / count,
            "loss": loss / count,
        }

    def _load(
        self, images: ImageSet, rows: list[list[int]], crop_seed: int | None, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = DataLoader(
            _Batches(images, self.recipe.data, crop_seed),
            sampler=rows,
            batch_size=None,
            num_workers=self.recipe.data.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
        for pictures, labels in loader:
            yield (
                pictures.to(device, non_blocking=True),
                (labels + self.label_offset).to(device, non_blocking=True),
            )


def _subsets(recipe: Recipe, data: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the pictures to train on and of those to validate on, the same for every seed."""
    count = len(data.train.labels)
    held_out = round(recipe.data.validation * count)
    wanted = recipe.data.train or count - held_out
    if held_out + wanted > count:
        raise DataError(
            f"[data] train {wanted} and {held_out} held out for validation are more than the "
            f"{count} training pictures there are ({data.description})"
        )
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    return rows[: count - held_out][:wanted], rows[count - held_out :]


class _Batches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A batch by the list of its indices."""

    def __init__(self, images: ImageSet, settings: Data, crop_seed: int | None) -> None:
        self.images, self.settings, self.crop_seed = images, settings, crop_seed

    def __getitem__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self.settings
        batch = self.images.batch(indices, settings.pixels, self.crop_seed, crop=settings.crop)
        return batch, self.images.labels[torch.as_tensor(indices)]


def _for_model(images: torch.Tensor) -> torch.Tensor:
    """[0, 1] to [-1, 1], channels last in memory: a third faster on CPU, the same numbers."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


def top_k_correct(logits: torch.Tensor, labels: torch.Tensor, k: int) -> int:
    """In how many rows of ``(N, C)`` logits the label is among the k largest.

    >>> top_k_correct(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2)
    1
    """
    return int((logits.topk(k, dim=1).indices == labels.unsqueeze(1)).sum())


def _augmentation(recipe: Recipe) -> nn.Module:
    if not recipe.data.augment:
        return nn.Identity()
    import kornia.augmentation as K

    steps = []
    for name, arguments in recipe.data.augment:
        kind = getattr(K, name, None)
        if not isinstance(kind, type):
            raise ConfigurationError(f"augment: kornia.augmentation has no class {name!r}")
        steps.append(kind(**arguments))
    return nn.Sequential(*steps)
