"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) as TF-slim builds it."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from billhook.errors import ConfigurationError

__all__ = ["MobileNetV1", "SeparableBlock", "mobilenet_v1"]

STEM_CHANNELS = 32
# Output channels at width 1.0 and stride of each of the 13 separable blocks.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
MIN_CHANNELS = 8
BN_EPS = 1e-3
INIT_STD = 0.09
DROPOUT = 0.001


def _truncated_normal(weight: torch.Tensor) -> None:
    """TF's truncated normal: redrawn beyond two standard deviations."""
    nn.init.trunc_normal_(weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)


class SeparableBlock(nn.Module):
    """3x3 depthwise then 1x1 pointwise convolution, each with batch norm and ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.depthwise_norm = nn.BatchNorm2d(in_channels, eps=BN_EPS)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.activation = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.depthwise_norm(self.depthwise(x)))
        out: torch.Tensor = self.activation(self.pointwise_norm(self.pointwise(x)))
        return out


class MobileNetV1(nn.Module):
    """Images ``(N, 3, H, W)`` to logits ``(N, num_classes)``; total stride 32.

    Channels are ``max(int(c * width), 8)``, as in slim. Strided convolutions pad by one pixel on
    every side (PyTorch's way), where TensorFlow's SAME pads an even input at the far edge only.
    """

    # Table 2: "the first convolution and the depthwise ones are not pruned", 1.1% of the weights.
    prune_rules: ClassVar[Mapping[str | type[nn.Module], float | None]] = {
        "stem.weight": None,
        "blocks.*.depthwise.weight": None,
    }

    def __init__(self, width: float = 1.0, num_classes: int = 1001) -> None:
        super().__init__()
        if not width > 0:
            raise ConfigurationError(
                f"width is {width}: it scales the channels and has to be above 0"
            )

        def channels(count: int) -> int:
            return max(int(count * width), MIN_CHANNELS)

        stem = channels(STEM_CHANNELS)
        self.stem = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem, eps=BN_EPS)
        self.activation = nn.ReLU6()
        inputs = [stem, *(channels(c) for c, _ in BLOCKS)]
        self.blocks = nn.Sequential(
            *(
                SeparableBlock(inputs[i], inputs[i + 1], stride)
                for i, (_, stride) in enumerate(BLOCKS)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(inputs[-1], num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of standard deviation 0.09 for every weight, zero for the bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _truncated_normal(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.stem_norm(self.stem(images)))
        x = self.pool(self.blocks(x)).flatten(1)
        logits: torch.Tensor = self.classifier(self.dropout(x))
        return logits


def mobilenet_v1(width: float = 1.0, num_classes: int = 1001) -> MobileNetV1:
    """MobileNetV1 with its channels scaled by ``width``.

    Without batch norm, 1001 classes and width 0.25 / 0.5 / 0.75 / 1.0 it has 464,857 / 1,321,161 /
    2,569,913 / 4,211,113 parameters (Table 2 of Zhu & Gupta 2017).

    Args:
        width: The factor on every channel count, above 0.
        num_classes: The outputs; slim counts a background class, hence 1001.

    Raises:
        ConfigurationError: ``width`` is not above 0.

    >>> import torch
    >>> mobilenet_v1(width=0.25, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return MobileNetV1(width, num_classes)
