"""CIFAR-10's binary version: records of a label byte and 3 x 32 x 32 bytes, channels first."""

from pathlib import Path

import numpy as np
import torch

from billhook.data.images import ArrayImages, ImageData, check_labels
from billhook.errors import DataError

__all__ = ["is_here", "load"]

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
RECORDS = 10_000  # in every file
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def is_here(folder: Path) -> bool:
    """Whether any of the six files is there: a missing one is then an error, not another kind."""
    return any((folder / name).exists() for name in TRAIN_FILES + TEST_FILES)


def load(folder: Path) -> ImageData:
    """50,000 training and 10,000 test pictures.

    Raises:
        DataError: a file is missing, has not 10,000 records, or has a label above 9.
    """
    train, test = _read(folder, TRAIN_FILES), _read(folder, TEST_FILES)
    description = (
        f"CIFAR-10 binary files: {len(train.labels)} + {len(test.labels)} pictures of 32 x 32, "
        "10 classes"
    )
    return ImageData(train, test, tuple(CLASSES), description)


def _read(folder: Path, names: tuple[str, ...]) -> ArrayImages:
    parts = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{path} is missing: {', '.join(TRAIN_FILES + TEST_FILES)} make the set"
            )
        size = path.stat().st_size
        if size != RECORDS * RECORD_BYTES:
            raise DataError(
                f"{path} has {size} bytes, {RECORDS} records of {RECORD_BYTES} are "
                f"{RECORDS * RECORD_BYTES}: it is cut short or not a CIFAR-10 file"
            )
        part = np.fromfile(path, dtype=np.uint8).reshape(RECORDS, RECORD_BYTES)
        check_labels(torch.from_numpy(part[:, 0].astype(np.int64)), len(CLASSES), str(path))
        parts.append(part)
    records = torch.from_numpy(np.concatenate(parts))
    return ArrayImages(records[:, 1:].reshape(-1, 3, SIDE, SIDE), records[:, 0].long())
