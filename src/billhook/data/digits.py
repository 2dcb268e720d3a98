"""scikit-learn's handwritten digits: 1,797 grey pictures of 8 x 8 that need no download."""

import torch

from billhook.data.images import ArrayImages, ImageData

__all__ = ["load"]

TEST_EVERY = 5  # every fifth picture is for testing


def load() -> ImageData:
    """1,437 training and 360 test pictures; grey values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    pictures = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(raw.target).long()
    test = torch.arange(len(labels)) % TEST_EVERY == 0
    return ImageData(
        train=ArrayImages(pictures[~test], labels[~test]),
        test=ArrayImages(pictures[test], labels[test]),
        classes=tuple(str(digit) for digit in range(10)),
        description=f"scikit-learn's digits: {int((~test).sum())} + {int(test.sum())} grey "
        "pictures of 8 x 8, 10 classes",
    )
