"""One folder per class, as ImageNet has: ``train/CLASS/picture.jpg``, and ``val/`` or ``test/``."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from billhook.data.images import ImageData
from billhook.errors import DataError

__all__ = ["FolderImages", "is_here", "load"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_NAMES = ("val", "test")
WORDNET = re.compile(r"n\d{8}")
IMAGENET_CLASSES, IMAGENET_TRAIN, IMAGENET_VAL = 1000, 1_281_167, 50_000
# Inception's training crop: 8% to 100% of the area, sides 3:4 to 4:3. Test crop: the middle 87.5%.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TEST_CROP = 0.875
CROP_TRIES = 10


def is_here(folder: Path) -> bool:
    """Whether there is a ``train`` folder."""
    return (folder / "train").is_dir()


def load(folder: Path) -> ImageData:
    """The classes are the folders of ``train`` in alphabetical order.

    Raises:
        DataError: no test split, a class with no picture or in one split only, a file that is no
            picture, or an ImageNet of other than 1,281,167 + 50,000 pictures.
    """
    test_folder = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if test_folder is None:
        raise DataError(
            f"{folder} has train/ but neither val/ nor test/: the data set is incomplete"
        )
    classes = _classes(folder / "train")
    other = _classes(test_folder)
    if classes != other:
        name = sorted(set(classes) ^ set(other))[0]
        where = "train" if name in classes else test_folder.name
        raise DataError(
            f"{folder}: class folder {name!r} is in {where}/ only; train/ has {len(classes)} "
            f"classes, {test_folder.name}/ has {len(other)}"
        )
    train, test = _list(folder / "train", classes), _list(test_folder, classes)
    counts = (len(train.paths), len(test.paths))
    imagenet = len(classes) == IMAGENET_CLASSES and all(map(WORDNET.fullmatch, classes))
    if imagenet and counts != (IMAGENET_TRAIN, IMAGENET_VAL):
        raise DataError(
            f"{folder} has ImageNet's 1,000 classes but {counts[0]:,} + {counts[1]:,} "
            f"pictures, not {IMAGENET_TRAIN:,} + {IMAGENET_VAL:,}: it is incomplete"
        )
    description = f"image folder: {counts[0]} + {counts[1]} pictures, {len(classes)} classes"
    return ImageData(train, test, tuple(classes), description)


class FolderImages:
    """Pictures decoded when asked for."""

    def __init__(self, paths: list[Path], labels: torch.Tensor) -> None:
        self.paths = paths
        self.labels = labels

    def batch(
        self, indices: Sequence[int], pixels: int, crop_seed: int | None, *, crop: bool = True
    ) -> torch.Tensor:
        """See :class:`billhook.data.images.ImageSet`.

        Raises:
            DataError: a picture does not decode; the message names it.
        """
        return torch.stack([self._picture(int(i), pixels, crop_seed, crop=crop) for i in indices])

    def _picture(
        self, index: int, pixels: int, crop_seed: int | None, *, crop: bool
    ) -> torch.Tensor:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} does not decode as a picture: {error}") from None
        if not crop:
            box = (0.0, 0.0, float(picture.size[0]), float(picture.size[1]))
        elif crop_seed is None:
            box = _middle(*picture.size)
        else:
            box = _random_crop(*picture.size, np.random.default_rng([crop_seed, index]))
        small = picture.resize((pixels, pixels), Image.Resampling.BILINEAR, box)
        array = np.asarray(small, dtype=np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)


Box = tuple[float, float, float, float]


def _middle(width: int, height: int) -> Box:
    side = TEST_CROP * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_crop(width: int, height: int, random: np.random.Generator) -> Box:
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*AREA)
        aspect = np.exp(random.uniform(*np.log(ASPECT)))
        w, h = float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect))
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, left + w, top + h
    return _middle(width, height)


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(names) < 2:
        raise DataError(
            f"{folder} has {len(names)} class folders: one folder per class is expected"
        )
    return names


def _list(folder: Path, classes: list[str]) -> FolderImages:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(p for p in (folder / name).iterdir() if not p.name.startswith("."))
        if not files:
            raise DataError(f"{folder / name} is empty: every class needs a picture")
        for path in files:
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{path} is not a picture ({', '.join(sorted(SUFFIXES))} are)")
        paths += files
        labels += [label] * len(files)
    return FolderImages(paths, torch.tensor(labels))
