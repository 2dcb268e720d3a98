"""Ranges that torch.ao's quantisation-aware training has observed, and the plain model below it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from billhook.inference.int8.inputs import maps_of
from billhook.inference.int8.ops import Shape
from billhook.torch_private import children_of, remove_forward_hooks

__all__ = ["Observed", "found_in", "observers_of", "plain"]

Bounds = tuple[float, float]
#: Children that torch.ao adds for activations; those of weights end otherwise.
OBSERVER = "activation_post_process"


@dataclass(frozen=True)
class Observed:
    """A value that an observer saw on the example inputs, and the bounds it has for it."""

    name: str
    bounds: Bounds
    value: torch.Tensor


def observers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of torch.ao that fake-quantise activations, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if _is_fake_quantise(module) and name.rsplit(".", 1)[-1].startswith(OBSERVER)
    }


def _is_fake_quantise(module: nn.Module) -> bool:
    return any(
        each.__module__ == "torch.ao.quantization.fake_quantize" for each in type(module).__mro__
    )


def plain(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, list[Observed]]:
    """The float model of one that ``prepare_qat`` or ``prepare_qat_fx`` made, and what it observed.

    Batch norms that were trained within convolutions are folded into them. A model without
    observers is returned as it is.
    """
    if not observers_of(model):
        return model, []
    from torch.ao.quantization import disable_fake_quant, disable_observer

    own = copy.deepcopy(model).eval()
    own.apply(disable_observer)
    own.apply(disable_fake_quant)
    found: list[Observed] = []
    for name, observer in observers_of(own).items():

        def record(_: nn.Module, given: Any, __: Any, name: str = name, o: Any = observer) -> None:
            if torch.is_tensor(given[0]):
                found.append(Observed(name, _bounds(o), given[0].detach().clone()))

        observer.register_forward_hook(record)
    own(*inputs)
    return _without(own), found


def _bounds(observer: Any) -> Bounds:
    """The least and the largest value that its codes stand for."""
    step, zero = float(observer.scale), float(observer.zero_point)
    return (observer.quant_min - zero) * step, (observer.quant_max - zero) * step


def _without(model: nn.Module) -> nn.Module:
    """The model with plain layers for those of torch.ao, and nothing for observers and stubs."""
    for name, child in list(children_of(model).items()):  # shared ones too
        if child is None:
            continue
        own = type(child).__module__.startswith("torch.ao.")
        to_float: Any = getattr(child, "to_float", None)
        if own and to_float is not None:
            setattr(model, name, _without(to_float().eval()))
        elif own and (
            _is_fake_quantise(child) or type(child).__name__ in ("QuantStub", "DeQuantStub")
        ):
            setattr(model, name, nn.Identity())
        else:
            _without(child)
    remove_forward_hooks(model, lambda h: str(getattr(h, "__module__", "")).startswith("torch.ao."))
    return model


def found_in(
    observed: list[Observed], values: Mapping[int, torch.Tensor], takes: Shape
) -> Iterator[tuple[int, Observed]]:
    """Which values of a captured network the observers saw: those with the same numbers."""
    for each in observed:
        given = (
            each.value if each.value.dim() == 2 and len(takes) > 1 else maps_of(each.value, takes)
        )
        for index, value in values.items():
            same = value.numel() == given.numel() and torch.allclose(
                value.flatten(), given.flatten(), rtol=1e-3, atol=1e-4
            )
            if same:
                yield index, each
