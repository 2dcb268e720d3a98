"""Random small networks: layers used twice, values read late, aliases, every known operator."""

import random
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Maps = torch.Tensor
FUNCTIONS: list[Callable[[Maps], Maps]] = [
    F.hardswish,
    F.hardsigmoid,
    F.silu,
    torch.sigmoid,
    torch.tanh,
    F.gelu,
]
GATES: list[Callable[[Maps], Maps]] = [F.hardsigmoid, torch.sigmoid, F.relu6]
MIDDLES: list[Callable[[Maps], Maps]] = [F.relu, F.silu]
Instruction = tuple[Callable[..., Maps], tuple[int, ...]]


class RandomNetwork(nn.Module):
    """Runs its instructions: each a function of some of the values before it."""

    def __init__(self, seed: int, steps: int = 10) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleList()
        self.reuse: dict[tuple[int, ...], list[nn.Module]] = {}
        size = self.rng.choice([(7, 9), (8, 8), (12, 5), (16, 16)])
        self.input_shape = (self.rng.choice([1, 3, 8]), *size)
        self.shapes: list[tuple[int, ...]] = [self.input_shape]
        self.code: list[Instruction] = []
        for _ in range(steps):
            self._step()
        self._end()
        self._prune()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for function, inputs in self.code:
            values.append(function(*(values[i] for i in inputs)))
        return values[-1]

    def _step(self) -> None:
        source = self._pick()
        kinds = ["conv"] * 4 + ["norm", "act", "act", "alias", "alias", "cat", "add", "pool", "pad"]
        kinds += ["function", "product", "squeeze"]
        getattr(self, f"_{self.rng.choice(kinds)}")(source)

    def _pick(self) -> int:
        """Mostly a recent value, sometimes any."""
        if self.rng.random() < 0.6:
            return len(self.shapes) - 1
        return self.rng.randrange(len(self.shapes))

    def _add_code(self, function: Callable[..., Maps], *inputs: int) -> None:
        example = [torch.zeros(1, *self.shapes[i]) for i in inputs]
        with torch.no_grad():
            self.shapes.append(tuple(function(*example).shape[1:]))
        self.code.append((function, inputs))

    def _layer(self, layer: nn.Module) -> nn.Module:
        self.layers.append(layer.eval())
        return layer

    def _conv(self, source: int) -> None:
        channels, height, width = self.shapes[source]
        kernel = self.rng.choice([(1, 1), (1, 1), (3, 3), (1, 3), (2, 3), (5, 5)])
        kernel = (min(kernel[0], height), min(kernel[1], width))
        groups = self.rng.choice([1, 1, channels, 2 if channels % 2 == 0 else 1])
        filters = channels if groups > 1 else self.rng.choice([channels, 4, 8, 11])
        settings = (channels, filters, *kernel, groups)
        if self.reuse.get(settings) and self.rng.random() < 0.5:
            self._add_code(self.rng.choice(self.reuse[settings]), source)
            return
        layer = nn.Conv2d(
            channels,
            filters,
            kernel,
            stride=self.rng.choice([(1, 1), (1, 1), (1, 1), (2, 2), (2, 1)]),
            padding=self.rng.choice([(kernel[0] // 2, kernel[1] // 2)] * 2 + [(0, kernel[1] // 2)]),
            groups=groups,
            bias=self.rng.random() < 0.5,
        )
        self.reuse.setdefault(settings, []).append(self._layer(layer))
        self._add_code(layer, source)

    def _norm(self, source: int) -> None:
        norm = nn.BatchNorm2d(self.shapes[source][0])
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.uniform_(norm.weight, 0.5, 2)
        self._add_code(self._layer(norm), source)

    def _act(self, source: int) -> None:
        inplace = self.rng.random() < 0.15
        self._add_code(self.rng.choice([nn.ReLU, nn.ReLU6])(inplace=inplace), source)

    def _alias(self, source: int) -> None:
        aliases: list[Callable[[Maps], Maps]] = [
            nn.Dropout(0.3).eval(),
            torch.clone,
            lambda x: x.contiguous(),
            nn.Dropout2d(0.3).eval(),
        ]
        self._add_code(self.rng.choice(aliases), source)

    def _cat(self, source: int) -> None:
        like = [i for i, s in enumerate(self.shapes) if s[1:] == self.shapes[source][1:]]
        parts = [self.rng.choice(like) for _ in range(self.rng.choice([1, 2, 3]))] + [source]
        if sum(self.shapes[i][0] for i in parts) <= 48:
            self._add_code(lambda *x: torch.cat(x, 1), *self.rng.sample(parts, len(parts)))

    def _add(self, source: int) -> None:
        like = [i for i, s in enumerate(self.shapes) if s == self.shapes[source]]
        self._add_code(lambda x, y: x + y, source, self.rng.choice(like))

    def _function(self, source: int) -> None:
        self._add_code(self.rng.choice(FUNCTIONS), source)

    def _product(self, source: int) -> None:
        like = [i for i, s in enumerate(self.shapes) if s == self.shapes[source]]
        self._add_code(lambda x, y: x * torch.sigmoid(y), source, self.rng.choice(like))

    def _squeeze(self, source: int) -> None:
        """Squeeze and excitation, by convolutions or by linear layers."""
        channels = self.shapes[source][0]
        gate = self.rng.choice(GATES)
        if self.rng.random() < 0.5:
            down, up = (self._layer(nn.Conv2d(channels, channels, 1)) for _ in range(2))
            middle = self.rng.choice(MIDDLES)
            self._add_code(
                lambda x: gate(up(middle(down(F.adaptive_avg_pool2d(x, 1))))) * x, source
            )
            return
        down, up = (self._layer(nn.Linear(channels, channels)) for _ in range(2))
        self._add_code(
            lambda x: x * gate(up(F.relu(down(x.mean((2, 3)))))).view(len(x), -1, 1, 1), source
        )

    def _pool(self, source: int) -> None:
        kernel = self.rng.choice([(2, 2), (3, 3), (1, 2), (3, 2)])
        if any(k > n for k, n in zip(kernel, self.shapes[source][1:], strict=True)):
            return
        stride, pad = self.rng.choice([1, 1, 2, 3]), self.rng.choice([0, min(kernel) // 2])
        if self.rng.random() < 0.5:
            ceil = self.rng.random() < 0.3
            self._add_code(lambda x: F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil), source)
            return
        count = self.rng.random() < 0.5
        self._add_code(
            lambda x: F.avg_pool2d(x, kernel, stride, pad, count_include_pad=count), source
        )

    def _pad(self, source: int) -> None:
        channels, height, width = self.shapes[source]
        amounts = [self.rng.choice([0, 1, 2]) for _ in range(4)]
        if height + sum(amounts[2:]) < 3 or width + sum(amounts[:2]) < 3:
            return
        conv = self._layer(nn.Conv2d(channels, 6, 3))
        self._add_code(lambda x: conv(F.pad(x, amounts)), source)

    def _end(self) -> None:
        last = len(self.shapes) - 1
        channels, height, width = self.shapes[last]
        end = self.rng.choice(["maps", "mean", "pool", "flatten", "head"])
        if end == "maps":
            self._conv(last)
            return
        if end == "head":
            head = self._layer(nn.Conv2d(channels, 5, 1))
            self._add_code(lambda x: head(F.adaptive_avg_pool2d(x, 1)), last)
            return
        features = channels if end in ("mean", "pool") else channels * height * width
        first, second = (
            self._layer(nn.Linear(features, 12)),
            self._layer(nn.Linear(12, 12)),
        )
        flat: Callable[[Maps], Maps] = {
            "mean": lambda x: x.mean((2, 3)),
            "pool": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
            "flatten": lambda x: torch.flatten(x, 1),
        }[end]
        self._add_code(lambda x: second(F.relu(second(F.relu(first(flat(x)))))), last)

    def _prune(self) -> None:
        density = self.rng.choice([0.2, 0.5, 1.0])
        with torch.no_grad():
            for parameter in self.layers.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(torch.rand_like(parameter) < density)
        self.eval()
