"""IDX files, MNIST's format and Fashion-MNIST's: big-endian sizes, then unsigned bytes."""

import gzip
import struct
import zlib
from pathlib import Path

import torch

from billhook.data.images import ArrayImages, ImageData, check_labels
from billhook.errors import DataError

__all__ = ["is_here", "load", "read_idx"]

UNSIGNED_BYTE = 8
SPLITS = {"train": "train", "test": "t10k"}


def is_here(folder: Path) -> bool:
    """Whether any of the four files is there: a missing one is then an error, not another kind."""
    return any(folder.glob("*-idx[13]-ubyte*"))


def load(folder: Path) -> ImageData:
    """``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, each as it is or with ``.gz``.

    Raises:
        DataError: a file is missing, damaged or of another shape, or the counts do not agree.
    """
    splits = {}
    for split, prefix in SPLITS.items():
        pictures = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
        path = _find(folder, f"{prefix}-labels-idx1-ubyte")
        labels = read_idx(path, dimensions=1).long()
        if len(pictures) != len(labels):
            raise DataError(
                f"{path} has {len(labels)} labels, its pictures are {len(pictures)}: "
                "the two files do not belong together"
            )
        if not len(labels):
            raise DataError(f"{path} has no labels at all")
        splits[split] = (path, ArrayImages(pictures, labels))
    classes = int(splits["train"][1].labels.max()) + 1
    for path, images in splits.values():
        check_labels(images.labels, classes, str(path))
    train, test = (images for _, images in splits.values())
    if train.pictures.shape[1:] != test.pictures.shape[1:]:
        raise DataError(
            f"{folder}: training pictures are {tuple(train.pictures.shape[2:])}, test pictures "
            f"{tuple(test.pictures.shape[2:])}"
        )
    height, width = train.pictures.shape[2:]
    return ImageData(
        train,
        test,
        tuple(str(label) for label in range(classes)),
        f"IDX files: {len(train.labels)} + {len(test.labels)} grey pictures of {height} x {width}, "
        f"{classes} classes",
    )


def read_idx(path: Path, dimensions: int) -> torch.Tensor:
    """The uint8 array of an IDX file, which has to have this many dimensions.

    Raises:
        DataError: another kind of file, or not the number of bytes its header promises.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged ({error}): fetch it again") from None
    start = 4 + 4 * dimensions
    if raw[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]) or len(raw) < start:
        raise DataError(
            f"{path} begins with {raw[:4].hex(' ')}, an IDX file of bytes in {dimensions} "
            f"dimensions with 00 00 08 {dimensions:02x}: this is another kind of file"
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    expected = start
    size = 1
    for length in shape:
        size *= length
    expected += size
    if len(raw) != expected:
        raise DataError(
            f"{path} has {len(raw)} bytes, its header {shape} promises {expected}: "
            "it is cut short or damaged, fetch it again"
        )
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / name} is missing (with or without .gz): four files make the set")
