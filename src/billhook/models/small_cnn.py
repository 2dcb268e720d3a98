"""A convolutional network of seconds, for studies of many runs."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["SmallCNN", "small_cnn"]


class SmallCNN(nn.Module):
    """Images ``(N, 3, H, W)`` to logits ``(N, classes)``: four 3x3 convolutions, total stride 8.

    The first convolution has ``width / 2`` channels, rounded up, the others ``width``; each is
    followed by batch norm and ReLU, the last by the mean over all places. The first convolution and
    the classifier stay dense.
    """

    prune_rules: ClassVar[Mapping[str | type[nn.Module], float | None]] = {
        "convolutions.0.weight": None,
        "classifier.weight": None,
    }

    def __init__(self, width: int = 48, classes: int = 10) -> None:
        super().__init__()
        channels = [3, (width + 1) // 2, width, width, width]
        strides = [2, 2, 2, 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1, bias=False)
            for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])
        self.classifier = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def small_cnn(width: float, classes: int = 10) -> SmallCNN:
    """The network of a width, as studies ask for it.

    >>> small_cnn(48)(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in small_cnn(48).parameters())
    53314
    """
    return SmallCNN(int(width), classes)
