"""Small networks for images, built of what the published ones are built of."""

import torch
from torch import nn
from torch.nn import functional as F


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return nn.Sequential(conv, norm)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)
        self.inner, self.gate = inner(), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate: torch.Tensor = self.gate(self.up(self.inner(self.down(self.pool(x)))))
        return x * gate


class InvertedResidual(nn.Module):
    """Of MobileNetV3 (hard-swish) and EfficientNet (SiLU)."""

    def __init__(self, channels: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            conv_norm(channels, wide),
            act(),
            conv_norm(wide, wide, 5, groups=wide),
            act(),
            SqueezeExcite(wide, nn.ReLU if gate is nn.Hardsigmoid else nn.SiLU, gate),
            conv_norm(wide, channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.layers(x)
        return x + changed


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 16, 3, 2),
        nn.Hardswish(),
        InvertedResidual(16, nn.Hardswish, nn.Hardsigmoid),
        conv_norm(16, 24, 3, 2),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 32),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


def efficientnet() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 16, 3, 2),
        nn.SiLU(),
        InvertedResidual(16, nn.SiLU, nn.Sigmoid),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_norm(half, half),
            nn.ReLU(),
            conv_norm(half, half, 3, groups=half),
            conv_norm(half, half),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        y = torch.cat((kept, self.branch(changed)), dim=1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return y.view(batch, -1, height, width)


def shufflenet() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 24, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        ShuffleUnit(24),
        ShuffleUnit(24),
        nn.PixelShuffle(2),
    )


class RegNetBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = conv_norm(channels, channels), conv_norm(channels, channels, 3, groups=4)
        self.se = SqueezeExcite(channels, nn.ReLU, nn.Sigmoid)
        self.c = conv_norm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.c(self.se(F.relu(self.b(F.relu(self.a(x)))))))


def regnet_y() -> nn.Module:
    return nn.Sequential(conv_norm(3, 16, 3, 2), nn.ReLU(), RegNetBlock(16), RegNetBlock(16))


class UNet(nn.Module):
    """Two levels; the way up by transposed convolutions, or by interpolation."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up, self.first, self.second = up, conv_norm(3, 8, 3), conv_norm(8, 16, 3)
        transposed = up == "transposed"
        self.transposed = nn.ConvTranspose2d(16, 8, 2, 2) if transposed else nn.Conv2d(16, 8, 1)
        self.last, self.head = conv_norm(16, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.first(x))
        y = self.transposed(F.relu(self.second(F.max_pool2d(first, 2))))
        if self.up != "transposed":
            y = F.interpolate(y, scale_factor=2, mode=self.up)
        return self.head(F.leaky_relu(self.last(torch.cat([first, y], 1)), 0.1))  # type: ignore[no-any-return]


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4),
        ConvNeXtBlock(16),
        ConvNeXtBlock(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.LayerNorm(16),
        nn.Linear(16, 7),
    )


class DenseLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = conv_norm(1, channels)[1]
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        DenseLayer(16),
        DenseLayer(24),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class ResNet(nn.Module):
    """Two outputs, by name: features and scores; padding before the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = conv_norm(3, 16, 7, 2), conv_norm(16, 32, 3, 2)
        self.b = conv_norm(32, 32, 3)
        self.down, self.fc = conv_norm(16, 32, 1, 2), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.max_pool2d(F.pad(F.relu(self.stem((x - 0.45) / 0.22)), (0, 1, 0, 1)), 3, 2)
        x = F.relu(self.b(F.relu(self.a(x))) + self.down(x))
        return {"features": x, "scores": self.fc(x.mean([2, 3]))}


class Mixed(nn.Module):
    """What no other network here has: group norm, PReLU, ELU, clamp, division, expand, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.prelu, self.one = nn.PReLU(8), nn.PReLU()
        self.transposed = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
        self.register_buffer("position", torch.randn(1, 6, 1, 10))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.prelu(self.group(self.conv(x)))
        y = F.elu(self.instance(y)).clamp(-0.5, 2.0) / 3 + y.mean(1, keepdim=True)
        z = self.one(self.transposed(y)) * self.position
        size = F.interpolate(z, size=(5, 7), mode="bilinear", align_corners=False)
        corners = F.interpolate(z, size=(9, 13), mode="bilinear", align_corners=True)
        gate = torch.softmax(z.amax((2, 3)), 1).unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 5, 7)
        gated = (2 - size * gate).unsqueeze(1).squeeze(1).detach()
        return gated, torch.maximum(corners, -corners).sqrt()


MODELS = {
    "MobileNetV3": (mobilenet_v3, (3, 33, 32)),
    "EfficientNet": (efficientnet, (3, 32, 30)),
    "ShuffleNet": (shufflenet, (3, 32, 32)),
    "RegNet-Y": (regnet_y, (3, 24, 26)),
    "U-Net, transposed": (lambda: UNet("transposed"), (3, 16, 20)),
    "U-Net, nearest": (lambda: UNet("nearest"), (3, 16, 20)),
    "U-Net, bilinear": (lambda: UNet("bilinear"), (3, 16, 20)),
    "ConvNeXt": (convnext, (3, 32, 32)),
    "DenseNet": (densenet, (3, 12, 14)),
    "ResNet": (ResNet, (3, 40, 44)),
    "mixed": (Mixed, (3, 5, 5)),
}
