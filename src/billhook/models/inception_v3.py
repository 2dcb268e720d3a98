"""InceptionV3 (Szegedy et al. 2016, arXiv 1512.00567) as TF-slim builds it.

The network is the table ``BLOCKS``; a tuple is a chain of layers, a ``Fork`` runs its branches side
by side and joins their channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from billhook.errors import ConfigurationError

__all__ = ["Concat", "ConvUnit", "InceptionV3", "from_torchvision", "inception_v3"]

MIN_CHANNELS = 16
MIN_PIXELS = 75
BN_EPS = 1e-3
DROPOUT = 0.2
AUX_SIDE = 5  # the auxiliary head's 5 x 5 convolution covers its whole map

Pair = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """A ConvUnit: output channels at depth multiplier 1, kernel; unpadded or of the same size."""

    channels: int
    kernel: int | Pair
    stride: int = 1
    same: bool = True


@dataclass(frozen=True)
class Pool:
    """3x3 pooling: "average" keeps the size, "max" has stride 2 and no padding."""

    kind: str


@dataclass(frozen=True)
class Fork:
    """Branches on one input, joined along the channels."""

    branches: "tuple[Spec, ...]"


Spec = Conv | Pool | Fork | tuple["Spec", ...]


def _mixed_5(pooled: int) -> Fork:
    return Fork(
        (
            Conv(64, 1),
            (Conv(48, 1), Conv(64, 5)),
            (Conv(64, 1), Conv(96, 3), Conv(96, 3)),
            (Pool("average"), Conv(pooled, 1)),
        )
    )


def _mixed_6(inner: int) -> Fork:
    row, column = (1, 7), (7, 1)
    return Fork(
        (
            Conv(192, 1),
            (Conv(inner, 1), Conv(inner, row), Conv(192, column)),
            (
                Conv(inner, 1),
                Conv(inner, column),
                Conv(inner, row),
                Conv(inner, column),
                Conv(192, row),
            ),
            (Pool("average"), Conv(192, 1)),
        )
    )


def _mixed_7() -> Fork:
    row_and_column = Fork((Conv(384, (1, 3)), Conv(384, (3, 1))))
    return Fork(
        (
            Conv(320, 1),
            (Conv(384, 1), row_and_column),
            (Conv(448, 1), Conv(384, 3), row_and_column),
            (Pool("average"), Conv(192, 1)),
        )
    )


# Sizes are for 299 pixels.
BLOCKS: dict[str, Spec] = {
    "stem": (
        Conv(32, 3, stride=2, same=False),  # 149
        Conv(32, 3, same=False),  # 147
        Conv(64, 3),
        Pool("max"),  # 73
        Conv(80, 1),
        Conv(192, 3, same=False),  # 71
        Pool("max"),  # 35
    ),
    "mixed_5b": _mixed_5(32),
    "mixed_5c": _mixed_5(64),
    "mixed_5d": _mixed_5(64),
    "mixed_6a": Fork(  # 17
        (
            Conv(384, 3, stride=2, same=False),
            (Conv(64, 1), Conv(96, 3), Conv(96, 3, stride=2, same=False)),
            Pool("max"),
        )
    ),
    "mixed_6b": _mixed_6(128),
    "mixed_6c": _mixed_6(160),
    "mixed_6d": _mixed_6(160),
    "mixed_6e": _mixed_6(192),
    "mixed_7a": Fork(  # 8
        (
            (Conv(192, 1), Conv(320, 3, stride=2, same=False)),
            (
                Conv(192, 1),
                Conv(192, (1, 7)),
                Conv(192, (7, 1)),
                Conv(192, 3, stride=2, same=False),
            ),
            Pool("max"),
        )
    ),
    "mixed_7b": _mixed_7(),
    "mixed_7c": _mixed_7(),
}
AUX_AFTER = "mixed_6e"


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm with or without a scale, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, conv: Conv, bn_scale: bool) -> None:
        super().__init__()
        kernel = (conv.kernel, conv.kernel) if isinstance(conv.kernel, int) else conv.kernel
        padding = (kernel[0] // 2, kernel[1] // 2) if conv.same else (0, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, conv.stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        if not bn_scale:
            self.norm.register_parameter("weight", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Concat(nn.ModuleList):
    """Its modules side by side on one input, their outputs joined along the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


@dataclass(frozen=True)
class _Builder:
    """Turns a Spec into modules; channel counts are scaled here and nowhere else."""

    depth_multiplier: float
    bn_scale: bool

    def channels(self, count: int) -> int:
        return max(int(count * self.depth_multiplier), MIN_CHANNELS)

    def build(self, spec: Spec, width: int) -> tuple[nn.Module, int]:
        """The module for ``spec`` on ``width`` input channels, and its output channels."""
        if isinstance(spec, Conv):
            out = self.channels(spec.channels)
            return ConvUnit(width, out, spec, self.bn_scale), out
        if isinstance(spec, Pool):
            average = spec.kind == "average"
            return (nn.AvgPool2d(3, 1, padding=1) if average else nn.MaxPool2d(3, 2)), width
        if isinstance(spec, Fork):
            built = [self.build(branch, width) for branch in spec.branches]
            return Concat([module for module, _ in built]), sum(out for _, out in built)
        layers = []
        for layer in spec:
            module, width = self.build(layer, width)
            layers.append(module)
        return nn.Sequential(*layers), width


class _AuxiliaryHead(nn.Module):
    """Logits from the 17x17 map, for training: ``(N, C, h, w)`` to ``(N, num_classes)``.

    The pool has kernel 5 and stride 3, which makes 17x17 into 5x5. A map that this would leave
    smaller than 5x5 (images below 299 pixels) is pooled adaptively to 5x5 instead, so that the same
    convolution, with the same weights, covers it.
    """

    def __init__(self, width: int, num_classes: int, builder: _Builder) -> None:
        super().__init__()
        inner, out = builder.channels(128), builder.channels(768)
        self.conv0 = ConvUnit(width, inner, Conv(128, 1), builder.bn_scale)
        self.conv1 = ConvUnit(inner, out, Conv(768, AUX_SIDE, same=False), builder.bn_scale)
        self.classifier = nn.Linear(out, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[-2:]) < 17:
            x = F.adaptive_avg_pool2d(x, AUX_SIDE)
        else:
            x = F.avg_pool2d(x, kernel_size=5, stride=3)
        x = F.adaptive_avg_pool2d(self.conv1(self.conv0(x)), 1).flatten(1)
        logits: torch.Tensor = self.classifier(x)
        return logits


class InceptionV3(nn.Module):
    """Images ``(N, 3, H, W)``, 75 pixels or more, to logits ``(N, num_classes)``.

    In training mode ``forward`` returns ``(logits, auxiliary_logits)``, in evaluation mode the
    logits alone. The usual size is 299; 75 leaves a last map of 1x1.
    """

    # "All convolutions are pruned using the same sparsity": the default set, the classifiers (1x1
    # convolutions in slim) and the auxiliary head among them, or Table 1's counts do not come out.
    prune_rules: ClassVar[Mapping[str | type[nn.Module], float | None]] = {}

    def __init__(
        self, num_classes: int = 1001, depth_multiplier: float = 1.0, bn_scale: bool = False
    ) -> None:
        super().__init__()
        if not depth_multiplier > 0:
            raise ConfigurationError(
                f"depth_multiplier is {depth_multiplier}: "
                "it scales the channels and has to be above 0"
            )
        builder = _Builder(depth_multiplier, bn_scale)
        width = 3
        for name, spec in BLOCKS.items():
            block, width = builder.build(spec, width)
            self.add_module(name, block)
            if name == AUX_AFTER:
                aux_width = width
        self.aux = _AuxiliaryHead(aux_width, num_classes, builder)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's truncated normal; 0.01 and 0.001 in the auxiliary head's last two, as in slim."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                _truncated_normal(module.weight, math.sqrt(2 / fan_in))
        _truncated_normal(self.aux.conv1.conv.weight, 0.01)
        _truncated_normal(self.aux.classifier.weight, 0.001)
        nn.init.zeros_(self.aux.classifier.bias)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if min(images.shape[-2:]) < MIN_PIXELS:
            raise ConfigurationError(
                f"the images are {tuple(images.shape[-2:])}: InceptionV3 needs "
                f"{MIN_PIXELS} x {MIN_PIXELS} pixels or more; resize them"
            )
        x, aux_logits = images, None
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name == AUX_AFTER and self.training:
                aux_logits = self.aux(x)
        logits: torch.Tensor = self.classifier(self.dropout(self.pool(x).flatten(1)))
        return logits if aux_logits is None else (logits, aux_logits)


def _truncated_normal(weight: torch.Tensor, std: float) -> None:
    """TF's truncated normal: redrawn beyond two standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def inception_v3(
    num_classes: int = 1001, depth_multiplier: float = 1.0, bn_scale: bool = False
) -> InceptionV3:
    """InceptionV3 with its auxiliary head: 27,145,970 parameters, 27,125,856 of them weights.

    Args:
        num_classes: The outputs; slim counts a background class, hence 1001.
        depth_multiplier: The factor on every channel count, ``max(int(c * m), 16)``; above 0.
        bn_scale: Give batch norm a scale, as torchvision does and TF-slim does not.

    Raises:
        ConfigurationError: ``depth_multiplier`` is not above 0.

    >>> import torch
    >>> model = inception_v3(num_classes=10, depth_multiplier=0.1).eval()
    >>> model(torch.zeros(1, 3, 75, 75)).shape
    torch.Size([1, 10])
    """
    return InceptionV3(num_classes, depth_multiplier, bn_scale)


_MIXED_5 = {
    "branch1x1": "0",
    "branch5x5_1": "1.0",
    "branch5x5_2": "1.1",
    "branch3x3dbl_1": "2.0",
    "branch3x3dbl_2": "2.1",
    "branch3x3dbl_3": "2.2",
    "branch_pool": "3.1",
}
_MIXED_6A = {
    "branch3x3": "0",
    "branch3x3dbl_1": "1.0",
    "branch3x3dbl_2": "1.1",
    "branch3x3dbl_3": "1.2",
}
_MIXED_6 = {
    "branch1x1": "0",
    **{f"branch7x7_{i + 1}": f"1.{i}" for i in range(3)},
    **{f"branch7x7dbl_{i + 1}": f"2.{i}" for i in range(5)},
    "branch_pool": "3.1",
}
_MIXED_7A = {
    "branch3x3_1": "0.0",
    "branch3x3_2": "0.1",
    **{f"branch7x7x3_{i + 1}": f"1.{i}" for i in range(4)},
}
_MIXED_7 = {
    "branch1x1": "0",
    "branch3x3_1": "1.0",
    "branch3x3_2a": "1.1.0",
    "branch3x3_2b": "1.1.1",
    "branch3x3dbl_1": "2.0",
    "branch3x3dbl_2": "2.1",
    "branch3x3dbl_3a": "2.2.0",
    "branch3x3dbl_3b": "2.2.1",
    "branch_pool": "3.1",
}
# torchvision's module -> ours; below it "bn" is "norm", and "conv" and the rest are as they are.
TORCHVISION_MODULES = {
    "Conv2d_1a_3x3": "stem.0",
    "Conv2d_2a_3x3": "stem.1",
    "Conv2d_2b_3x3": "stem.2",
    "Conv2d_3b_1x1": "stem.4",
    "Conv2d_4a_3x3": "stem.5",
    "AuxLogits.conv0": "aux.conv0",
    "AuxLogits.conv1": "aux.conv1",
    "AuxLogits.fc": "aux.classifier",
    "fc": "classifier",
} | {
    f"Mixed_{block}.{theirs}": f"mixed_{block}.{ours}"
    for block, branches in {
        **dict.fromkeys(("5b", "5c", "5d"), _MIXED_5),
        "6a": _MIXED_6A,
        **dict.fromkeys(("6b", "6c", "6d", "6e"), _MIXED_6),
        "7a": _MIXED_7A,
        **dict.fromkeys(("7b", "7c"), _MIXED_7),
    }.items()
    for theirs, ours in branches.items()
}


def from_torchvision(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's ``inception_v3`` state_dict under this model's names; the tensors are shared.

    Load it into ``inception_v3(num_classes=1000, bn_scale=True)``. torchvision's pretrained weights
    expect images scaled to [-1, 1] (its ``transform_input=True`` does that).

    Raises:
        ConfigurationError: A name that torchvision's InceptionV3 does not have.
    """
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, leaf = name.rpartition(".")
        part = {"conv": ".conv", "bn": ".norm"}.get(module.rpartition(".")[2], "")
        theirs = module.rpartition(".")[0] if part else module
        if theirs not in TORCHVISION_MODULES:
            raise ConfigurationError(
                f"{name!r} is not a name in torchvision's inception_v3: "
                "from_torchvision takes that model's state_dict only"
            )
        renamed[f"{TORCHVISION_MODULES[theirs]}{part}.{leaf}"] = tensor
    return renamed
