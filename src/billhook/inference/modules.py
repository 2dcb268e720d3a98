"""Module replacement: the general way, for any model built of layers we have kernels for."""

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from billhook.errors import CompileError, ConfigurationError
from billhook.inference.graph import INPUT, Conv
from billhook.inference.linear import SparseLinear, check_input
from billhook.inference.lstm import SparseLSTM
from billhook.inference.network import Network
from billhook.inference.network_race import race_network
from billhook.inference.plan import Choice
from billhook.inference.race import race, winner
from billhook.inference.report import LayerReport

__all__ = ["SparseConv2d", "choose_modules", "replace_modules"]

NETWORKS_KEPT = 8  # input sizes a SparseConv2d keeps programs for


class SparseConv2d(nn.Module):
    """What an eval-mode :class:`torch.nn.Conv2d` with zero padding computes, with pruned weights.

    One small program for each input height and width seen lately.

    Args:
        conv: The dense module.
        choice: The kernel.
        isa: The instruction set, an index into ``kernels.ISA_NAMES``.

    >>> import torch
    >>> dense = torch.nn.Conv2d(2, 3, 3, padding=1).eval()
    >>> x = torch.ones(1, 2, 4, 4)
    >>> torch.allclose(SparseConv2d(dense, Choice("spmm"), 0)(x), dense(x), atol=1e-5)
    True
    """

    def __init__(self, conv: nn.Conv2d, choice: Choice, isa: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.choice, self.isa = choice, isa
        self._conv = describe_conv(conv)
        self._size = _output_size(conv)
        self._networks: dict[tuple[int, int, int], Network] = {}
        self._lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) or (C, H, W), as Conv2d."""
        check_input("SparseConv2d", x)
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ConfigurationError(
                f"the input's shape is {tuple(x.shape)}: this convolution takes "
                f"(N, {self.in_channels}, H, W) or ({self.in_channels}, H, W)"
            )
        batch = x if x.dim() == 4 else x.unsqueeze(0)
        y = self._network((x.shape[-3], x.shape[-2], x.shape[-1]))(batch)
        return y if x.dim() == 4 else y[0]

    def _network(self, shape: tuple[int, int, int]) -> Network:
        with self._lock:
            network = self._networks.get(shape)
            if network is None:
                op = sized(self._conv, self._size(shape[1], shape[2]))
                network = Network([op], shape, {op.name: self.choice}, self.isa)
                if len(self._networks) == NETWORKS_KEPT:
                    del self._networks[next(iter(self._networks))]
                self._networks[shape] = network
            return network


def describe_conv(conv: nn.Conv2d) -> Conv:
    """The module as an operation, its output's size still unknown."""
    top, left = _padding(conv)
    return Conv(
        name="conv",
        inputs=(INPUT,),
        shape=(conv.out_channels, 0, 0),
        weight=conv.weight.detach(),
        bias=None if conv.bias is None else conv.bias.detach(),
        stride=conv.stride,  # type: ignore[arg-type]
        padding=(top, left, top, left),
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
    )


def sized(conv: Conv, size: tuple[int, int]) -> Conv:
    """The operation with its output's height and width."""
    return Conv(**{**conv.__dict__, "shape": (conv.shape[0], *size)})


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns; a padding that is a word has been refused before."""
    assert not isinstance(conv.padding, str)
    return conv.padding[0], conv.padding[1]


def _output_size(conv: nn.Conv2d) -> Callable[[int, int], tuple[int, int]]:
    kernel, stride, padding, dilation = conv.kernel_size, conv.stride, _padding(conv), conv.dilation

    def size(height: int, width: int) -> tuple[int, int]:
        sides = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                (height, width), padding, dilation, kernel, stride, strict=True
            )
        ]
        if min(sides) < 1:
            raise ConfigurationError(
                f"an input of {height} x {width} is smaller than the {kernel} kernel needs"
            )
        return sides[0], sides[1]

    return size


@dataclass
class _Layer:
    """A layer that could be replaced, and one recorded call of it."""

    name: str
    module: nn.Module
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        # Exactly these types: a subclass computes something of its own.
        if type(module) in (nn.Linear, nn.Conv2d, nn.LSTM):
            yield name, module


def _obstacle(module: nn.Module) -> str | None:
    """Why a layer has no sparse form, if so."""
    if any(p.dtype != torch.float32 for p in module.parameters()):
        return "its weights are not fp32"
    if isinstance(module, nn.LSTM) and module.proj_size:
        return "an LSTM with projections has no sparse kernel"
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return f"padding {module.padding!r} ({module.padding_mode}) has no sparse kernel"
    return None


def choose_modules(
    model: nn.Module, run: Callable[[nn.Module], object], isa: int
) -> tuple[dict[str, Choice], list[LayerReport]]:
    """Races every layer on the input it sees in ``run(model)``: its choice and its times."""
    layers = {name: _Layer(name, module) for name, module in _candidates(model)}
    _record_calls(layers, lambda: run(model))
    choices, reports = {}, []
    for layer in layers.values():
        choice, report = _choose(layer, isa)
        choices[layer.name] = choice
        reports.append(report)
    return choices, reports


def _record_calls(layers: dict[str, _Layer], run: Callable[[], object]) -> None:
    def recorder(layer: _Layer) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            layer.call = args, kwargs

        return record

    hooks = [
        layer.module.register_forward_pre_hook(recorder(layer), with_kwargs=True)
        for layer in layers.values()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


def _choose(layer: _Layer, isa: int) -> tuple[Choice, LayerReport]:
    weights = [p for p in layer.module.parameters() if p.dim() > 1]
    total = sum(p.numel() for p in weights)
    sparsity = 1 - sum(int(p.count_nonzero()) for p in weights) / max(total, 1)

    def report(chosen: Choice, why: str, dense: float | None, sparse: float | None) -> Any:
        kind = type(layer.module).__name__
        shape = tuple(weights[0].shape)
        return chosen, LayerReport(
            layer.name,
            kind,
            shape,
            sparsity,
            positions=_positions(layer),
            dense_ms=dense,
            sparse_ms=sparse,
            chosen=chosen.kernel,
            reason=why,
        )

    obstacle = _obstacle(layer.module)
    if obstacle is None and layer.call is None:
        obstacle = "the example input does not reach it"
    if obstacle is not None:
        return report(Choice("dense"), obstacle, None, None)  # type: ignore[no-any-return]
    args, kwargs = layer.call or ((), {})
    options = {choice: _sparse(layer.module, choice, isa) for choice in _options(layer, isa)}
    options[Choice("dense")] = layer.module
    times = race({key: partial(module, *args, **kwargs) for key, module in options.items()})
    best = winner(times, Choice("dense"))
    dense = times.pop(Choice("dense"))
    fastest = min(times.values())
    why = f"{dense / fastest:.1f} times as fast as torch"
    if best.kernel == "dense":
        why = f"dense is as fast here ({dense:.3f} against {fastest:.3f} ms)"
    return report(best, why, dense, fastest)  # type: ignore[no-any-return]


def _positions(layer: _Layer) -> int:
    """How often the recorded call uses each weight."""
    if layer.call is None:
        return 0
    x = (layer.call[0] or tuple(layer.call[1].values()))[0]
    if isinstance(layer.module, nn.Conv2d):
        height, width = _output_size(layer.module)(x.shape[-2], x.shape[-1])
        return int(height * width * (len(x) if x.dim() == 4 else 1))
    data = x.data if isinstance(x, PackedSequence) else x
    return int(data.numel() // data.shape[-1])


def _options(layer: _Layer, isa: int) -> list[Choice]:
    """The sparse kernels worth a race."""
    if not isinstance(layer.module, nn.Conv2d):
        return [Choice("sparse")]
    assert layer.call is not None
    x = (layer.call[0] or tuple(layer.call[1].values()))[0]
    batch = x if x.dim() == 4 else x.unsqueeze(0)
    size = _output_size(layer.module)(x.shape[-2], x.shape[-1])
    choices, _ = race_network([sized(describe_conv(layer.module), size)], batch, isa)
    best = choices["conv"]
    return [best if best.kernel != "dense" else Choice("spmm")]


def _sparse(module: nn.Module, choice: Choice, isa: int) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return SparseConv2d(module, choice, isa)
    if isinstance(module, nn.LSTM):
        return SparseLSTM(module, isa)
    assert isinstance(module, nn.Linear)
    return SparseLinear(module.weight, module.bias, isa)


def replace_modules(model: nn.Module, choices: dict[str, Choice], isa: int) -> nn.Module:
    """A copy of the model in which the layers that are not chosen dense are sparse ones.

    Raises:
        CompileError: A choice names a layer that the model does not have.
    """
    model = copy.deepcopy(model)
    layers = dict(_candidates(model))
    for name, choice in choices.items():
        if name not in layers:
            raise CompileError(
                f"the plan has a layer {name!r} that this model lacks: "
                "it was made for another model; compile without plan="
            )
        if choice.kernel == "dense":
            continue
        obstacle = _obstacle(layers[name])
        if obstacle is not None:
            raise CompileError(f"the plan makes {name!r} sparse, but {obstacle}")
        sparse = _sparse(layers[name], choice, isa)
        if not name:
            return sparse.eval()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, sparse.eval())
    for module in model.modules():
        # Its fast path reads the weights of its linear layers instead of calling them.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
    return model.eval()
