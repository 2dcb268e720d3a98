"""Labelled pictures: what every image loader returns, and the choice of loader by what is there.

A picture is uint8 ``(3, H, W)``; grey ones are repeated over the three channels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch.nn import functional as F

from billhook.errors import DataError

__all__ = ["ArrayImages", "ImageData", "ImageSet", "load_images"]


class ImageSet(Protocol):
    """A split: N pictures and their labels, int64 ``(N,)``."""

    labels: torch.Tensor

    def batch(
        self, indices: Sequence[int], pixels: int, crop_seed: int | None, *, crop: bool = True
    ) -> torch.Tensor:
        """Those pictures as float32 ``(B, 3, pixels, pixels)`` in [0, 1].

        Pictures of one common size are scaled to ``pixels``; a folder's, of any size, are cropped:
        at random when there is a ``crop_seed``, the same for the same seed and index, else in the
        middle. Without ``crop`` they are scaled whole.
        """


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Training and test split, class names in label order, and one line that describes them."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    description: str


class ArrayImages:
    """Pictures of one size in memory: uint8 ``(N, H, W)`` grey or ``(N, 3, H, W)``."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor) -> None:
        self.pictures = pictures if pictures.ndim == 4 else pictures.unsqueeze(1)
        self.labels = labels

    def batch(
        self,
        indices: Sequence[int],
        pixels: int,
        crop_seed: int | None,  # noqa: ARG002 - pictures of one size are not cropped
        *,
        crop: bool = True,  # noqa: ARG002
    ) -> torch.Tensor:
        batch = self.pictures[torch.as_tensor(indices)].float() / 255
        if batch.shape[-2:] != (pixels, pixels):
            batch = F.interpolate(batch, (pixels, pixels), mode="bilinear", antialias=True)
        return batch.expand(-1, 3, -1, -1)


def check_labels(labels: torch.Tensor, classes: int, source: str) -> None:
    """Every label in [0, classes), every class present.

    Raises:
        DataError: names the first label that is not, or a class without a picture.
    """
    wrong = torch.nonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        index = int(wrong[0])
        raise DataError(
            f"{source}: label {int(labels[index])} of picture {index} is outside the "
            f"{classes} classes"
        )
    missing = sorted(set(range(classes)) - set(labels.unique().tolist()))
    if missing:
        raise DataError(f"{source}: no picture of class {missing[0]}; is the data set incomplete?")


def load_images(where: str | Path | None) -> ImageData:
    """The images in a folder, in whichever of the standard forms they are; None: the digits.

    | what is there | form |
    |---|---|
    | nothing given | scikit-learn's 1,797 handwritten digits |
    | ``train-images-idx3-ubyte[.gz]`` and three more | IDX: MNIST, Fashion-MNIST |
    | ``data_batch_1.bin`` to 5, ``test_batch.bin`` | CIFAR-10, binary version |
    | ``train/CLASS/*.jpg`` and ``val/`` or ``test/`` | image folder, ImageNet among them |

    Raises:
        DataError: the folder holds none of these, or only half of one.

    >>> load_images(None).description
    "scikit-learn's digits: 1437 + 360 grey pictures of 8 x 8, 10 classes"
    """
    from billhook.data import cifar10, digits, idx, image_folder

    if where is None:
        return digits.load()
    folder = Path(where)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the one that holds the data set")
    for is_here, load in (
        (idx.is_here, idx.load),
        (cifar10.is_here, cifar10.load),
        (image_folder.is_here, image_folder.load),
    ):
        if is_here(folder):
            return load(folder)
    names = sorted(path.name for path in folder.iterdir())
    raise DataError(
        f"{folder} holds no image data set billhook knows (IDX files, CIFAR-10 binary files, or "
        f"train/ and val/ with one folder per class), only: {', '.join(names[:8]) or 'nothing'}"
    )
