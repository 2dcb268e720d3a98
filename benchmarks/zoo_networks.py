"""Networks of their published sizes, random weights: what ``benchmarks/zoo.py`` measures.

Those that ``billhook.models`` or the package transformers have are theirs; the rest is written out
here, after the papers that the docstrings name.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from billhook.models import inception_v3, mobilenet_v1, ptb_lstm

__all__ = ["NETWORKS", "Make"]

Make = Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: type[nn.Module] = nn.Identity,
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return x * gate


class Inverted(nn.Module):
    """A block of MobileNetV3 (Howard et al. 2019, table 1)."""

    def __init__(
        self,
        inputs: int,
        kernel: int,
        wide: int,
        outputs: int,
        *,
        excite: bool,
        hard: bool,
        step: int,
    ) -> None:
        super().__init__()
        act: type[nn.Module] = nn.Hardswish if hard else nn.ReLU
        inner = max(8, (wide // 4 + 4) // 8 * 8)
        self.adds = step == 1 and inputs == outputs
        self.layers = nn.Sequential(
            conv_norm(inputs, wide, act=act) if wide != inputs else nn.Identity(),
            conv_norm(wide, wide, kernel, step, groups=wide, act=act),
            SqueezeExcite(wide, inner) if excite else nn.Identity(),
            conv_norm(wide, outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Large."""
    blocks = [
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ]
    layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, act=nn.Hardswish)]
    inputs = 16
    for kernel, wide, outputs, excite, hard, step in blocks:
        layers.append(Inverted(inputs, kernel, wide, outputs, excite=excite, hard=hard, step=step))
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish()]
    return nn.Sequential(
        *layers, conv_norm(160, 960, act=nn.Hardswish), *head, nn.Linear(1280, 1000)
    )


class ShuffleUnit(nn.Module):
    """Of ShuffleNetV2 (Ma et al. 2018, figure 3 c and d)."""

    def __init__(self, inputs: int, outputs: int, step: int) -> None:
        super().__init__()
        half = outputs // 2
        self.step = step
        self.left = nn.Sequential(
            conv_norm(inputs, inputs, 3, step, groups=inputs), conv_norm(inputs, half, act=nn.ReLU)
        )
        self.right = nn.Sequential(
            conv_norm(inputs if step == 2 else half, half, act=nn.ReLU),
            conv_norm(half, half, 3, step, groups=half),
            conv_norm(half, half, act=nn.ReLU),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.step == 2:
            left, right = self.left(x), x
        else:
            left, right = x.chunk(2, 1)
        y = torch.cat([left, self.right(right)], 1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return y.reshape(batch, channels, height, width)


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 1.0."""
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for outputs, count in ((116, 4), (232, 8), (464, 4)):
        layers += [ShuffleUnit(inputs, outputs, 2)]
        layers += [ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1)]
        inputs = outputs
    layers += [conv_norm(464, 1024, act=nn.ReLU), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1024, 1000))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            conv_norm(inputs, 128, act=nn.ReLU),
            nn.Conv2d(128, 32, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.layers(x)], 1)


def densenet() -> nn.Module:
    """DenseNet-121 (Huang et al. 2017)."""
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for count in (6, 12, 24, 16):
        layers += [DenseLayer(channels + 32 * k) for k in range(count)]
        channels += 32 * count
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if count != 16:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return nn.Sequential(*layers, *head)


class UNet(nn.Module):
    """Five levels of 32 to 512 channels, transposed convolutions (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 512)
        self.down = nn.ModuleList(map(self.pair, (3, *widths[:-1]), widths))
        upper = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in upper)
        self.merge = nn.ModuleList(self.pair(a, b) for a, b in upper)
        self.head = nn.Conv2d(32, 1, 1)

    @staticmethod
    def pair(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            conv_norm(inputs, outputs, 3, act=nn.ReLU), conv_norm(outputs, outputs, 3, act=nn.ReLU)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for k, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if k else x)
            kept.append(x)
        for up, merge, other in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([other, up(x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


class Crnn(nn.Module):
    """Reads words in pictures of 32 rows (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, pool: tuple[int, int] | None) -> list[nn.Module]:
            layers: list[nn.Module] = [conv_norm(inputs, outputs, 3, act=nn.ReLU)]
            return layers + ([nn.MaxPool2d(pool)] if pool else [])

        self.conv = nn.Sequential(
            *block(1, 64, (2, 2)),
            *block(64, 128, (2, 2)),
            *block(128, 256, None),
            *block(256, 256, (2, 1)),
            *block(256, 512, None),
            *block(512, 512, (2, 1)),
            nn.Conv2d(512, 512, 2),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(512, 256, 2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(512, 37)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).squeeze(2).transpose(1, 2)
        return self.out(self.lstm(y)[0])  # type: ignore[no-any-return]


class Gru(nn.Module):
    """Frames of 80 features to symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(80, 512, 2, batch_first=True), nn.Linear(512, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(x)[0])  # type: ignore[no-any-return]


class Waveform(nn.Module):
    """Sound to sound: strided and transposed convolutions of one dimension, as in Demucs
    (Défossez et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 48, 96, 192, 384)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv1d(a, b, 8, 4, 2) for a, b in pairs)
        self.mix = nn.ModuleList(nn.Conv1d(b, b, 1) for _, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose1d(b, a, 8, 4, 2) for a, b in pairs[::-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = F.relu(mix(F.relu(down(x))))
            kept.append(x)
        for up, other in zip(self.up, kept[::-1], strict=True):
            x = up(x + other)
            x = F.relu(x) if x.shape[1] > 1 else x
        return x


def _pictures(model: nn.Module, *shape: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return model, (torch.rand(1, *shape),)


def _transformers(kind: str, side: int = 224, **settings: Any) -> Make:
    """A network for pictures, or an encoder of text, of the package transformers."""

    def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        import transformers

        model = getattr(transformers, kind + "Model")(
            getattr(transformers, kind + "Config")(**settings)
        )
        return _pictures(model, 3, side, side)

    return make


def _words(kind: str, length: int, **settings: Any) -> Make:
    def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        import transformers

        name = {"T5": "T5EncoderModel"}.get(kind, kind + "Model")
        config = getattr(transformers, kind + "Config")(**settings)
        return getattr(transformers, name)(config), (torch.randint(0, 1000, (1, length)),)

    return make


class Causal(nn.Module):
    """GPT-2 with the mask that text without padding has: ONNX's exporter cannot work it out."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        self.model = GPT2Model(GPT2Config(use_cache=False))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.model(words, attention_mask=torch.ones_like(words))[0]  # type: ignore[no-any-return]


def _gpt2() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return Causal(), (torch.randint(0, 1000, (1, 64)),)


def _whisper() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(WhisperConfig()), (torch.randn(1, 80, 3000),)


def _language() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return ptb_lstm(hidden=650), (torch.randint(0, 10000, (1, 35)),)


NETWORKS: dict[str, Make] = {
    "MobileNetV1": lambda: _pictures(mobilenet_v1(), 3, 224, 224),
    "MobileNetV2": _transformers("MobileNetV2", tf_padding=False),
    "MobileNetV3-Large": lambda: _pictures(mobilenet_v3(), 3, 224, 224),
    "EfficientNet-B0": _transformers(
        "EfficientNet",
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        image_size=224,
    ),
    "ShuffleNetV2": lambda: _pictures(shufflenet_v2(), 3, 224, 224),
    "RegNet-Y 400MF": _transformers(
        "RegNet",
        embedding_size=32,
        hidden_sizes=[48, 104, 208, 440],
        depths=[1, 3, 6, 6],
        groups_width=8,
    ),
    "ResNet-18": _transformers(
        "ResNet", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    ),
    "DenseNet-121": lambda: _pictures(densenet(), 3, 224, 224),
    "U-Net": lambda: _pictures(UNet(), 3, 128, 128),
    "ConvNeXt-T": _transformers("ConvNext"),
    "InceptionV3": lambda: _pictures(inception_v3(), 3, 299, 299),
    "CRNN": lambda: _pictures(Crnn(), 1, 32, 128),
    "PTB LSTM, 650 units": _language,
    "GRU, 512 units": lambda: (Gru(), (torch.randn(1, 100, 80),)),
    "1-D audio": lambda: (Waveform(), (torch.randn(1, 1, 16384),)),
    "BERT, 6 layers of 384": _words(
        "Bert",
        128,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    ),
    "GPT-2": _gpt2,
    "ViT-S/16": _transformers(
        "ViT", hidden_size=384, num_attention_heads=6, intermediate_size=1536
    ),
    "Whisper-tiny, encoder": _whisper,
    "T5-small, encoder": _words("T5", 128, d_model=512, d_ff=2048, num_layers=6, num_heads=8),
}
