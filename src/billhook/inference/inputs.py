"""Checks of the inputs of every compiled layer and program."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import ConfigurationError

__all__ = ["by_position", "check_input", "positional"]


def positional(model: nn.Module, given: Any) -> tuple[Any, ...]:
    """Example inputs as the positional arguments of ``model.forward``.

    ``given`` is one input, a tuple of them, or a mapping by the names of forward's arguments, as a
    tokenizer returns it.

    Raises:
        ConfigurationError: forward has no argument of such a name, or takes it by keyword alone.

    >>> positional(nn.Bilinear(2, 2, 2), {"input2": 2.0, "input1": 1.0})
    (1.0, 2.0)
    """
    if isinstance(given, tuple):
        return given
    if not isinstance(given, Mapping):
        return (given,)
    names = getattr(model, "input_names", None)  # of an ONNX file
    if names is not None and set(given) == set(names):
        return tuple(given[name] for name in names)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    for name in given:
        if name not in parameters:
            raise ConfigurationError(
                f"{type(model).__name__}.forward has no positional argument {name!r}, it has "
                f"{', '.join(parameters) or 'none'}: give the inputs in a tuple, or wrap the model"
            )
    last = max((list(parameters).index(name) for name in given), default=-1)
    inputs = []
    for name, parameter in list(parameters.items())[: last + 1]:
        if name not in given and parameter.default is parameter.empty:
            raise ConfigurationError(f"the example inputs lack {name!r}, which forward needs")
        inputs.append(given.get(name, parameter.default))
    return tuple(inputs)


def by_position(
    given: tuple[Any, ...], named: Mapping[str, Any], names: Sequence[str]
) -> tuple[Any, ...]:
    """Inputs of a program in the order of its ``names``: those by name in the places that are left.

    Raises:
        ConfigurationError: these are not the names that are left.

    >>> by_position((1.0,), {"mask": 3.0, "tokens": 2.0, "labels": None}, ["x", "tokens", "mask"])
    (1.0, 2.0, 3.0)
    """
    there = {name: x for name, x in named.items() if x is not None}
    if not there:
        return given
    left = list(names)[sum(x is not None for x in torch_private.leaves(given)) :]
    if set(there) != set(left):
        raise ConfigurationError(
            f"this program takes {', '.join(names)}; by name it was given {', '.join(there)} where "
            f"{', '.join(left) or 'nothing'} was left to give"
        )
    return (*given, *(there[name] for name in left))


def check_input(name: str, x: Any, dtype: torch.dtype = torch.float32) -> None:
    """Raises ConfigurationError unless the input is a CPU tensor of this type without gradient.

    Nor may a tracer watch: native calls are not in its trace, which would hold memory that nothing
    fills.
    """
    if not isinstance(x, torch.Tensor):
        raise ConfigurationError(f"{name} takes a tensor, its input is a {type(x).__name__}")
    if type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise ConfigurationError(
            f"{name} reads memory, its input is a {type(x).__name__}, which may have none: give "
            "a plain tensor"
        )
    if torch_private.is_transformed(x):
        raise ConfigurationError(
            f"{name} runs native kernels, which torch.func's transforms (vmap, grad, jvp, "
            "functionalize) cannot see into: transform the model that was compiled, and give the "
            "compiled one whole batches"
        )
    if torch_private.is_traced():
        raise ConfigurationError(
            f"{name} runs native kernels, which torch.jit.trace, make_fx and the ONNX exporter "
            "cannot record: trace or export the model that was compiled, and save the compiled one "
            "with billhook.save(compiled, path)"
        )
    if x.is_nested:
        raise ConfigurationError(
            f"{name} takes no nested tensors, which a TransformerEncoder makes of padded batches "
            "unless it is built with enable_nested_tensor=False"
        )
    if not x.is_cpu or x.dtype != dtype or x.layout != torch.strided:
        wanted = "fp32" if dtype == torch.float32 else str(dtype)
        raise ConfigurationError(
            f"{name} was compiled for {wanted} on the CPU, its input is {x.dtype} on {x.device} "
            f"({x.layout}): convert the input"
        )
    if torch_private.has_no_memory(x):
        raise ConfigurationError(
            f"{name} reads memory, and its input of shape {tuple(x.shape)} has none: give a "
            "tensor whose storage is allocated"
        )
    if torch_private.has_tangent(x):
        raise ConfigurationError(
            f"{name} is compiled for inference and its input has a tangent, which would be lost: "
            "take the derivative of the model that was compiled"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigurationError(
            f"{name} is compiled for inference and its input requires a gradient: "
            "call it under torch.no_grad()"
        )
