"""Models and functions by name, as the command line takes them."""

import ast
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError

__all__ = ["build_model", "named_function", "parse_call"]


def build_model(target: str, device: str = "meta") -> nn.Module:
    """The model that ``target`` names; on "meta" it takes no memory for its weights.

    ``target`` is a function of billhook.models or ``module:function``, with keyword arguments in
    parentheses if need be.

    Raises:
        ConfigurationError: there is no such function, it fails with these arguments, or it returns
            something else than a module.

    >>> build_model("torch.nn:Linear(in_features=3, out_features=2)")
    Linear(in_features=3, out_features=2, bias=True)
    """
    head, bracket, rest = target.partition("(")  # arguments may contain ":"
    module, _, name = head.rpartition(":")
    name, arguments = parse_call(f"{name}{bracket}{rest}")
    factory = named_function(f"{module or 'billhook.models'}:{name}")
    try:
        with torch.device(device):
            model = factory(**arguments)
    except TypeError as error:
        raise ConfigurationError(
            f"{target!r} fails: {error}; give arguments by name, as in 'mobilenet_v1(width=0.5)'"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"{target!r} returns a {type(model).__name__}: give a function that returns a "
            "torch.nn.Module"
        )
    return model


def named_function(target: str) -> Callable[..., Any]:
    """The function of ``module:function``.

    Raises:
        ConfigurationError: there is none.

    >>> named_function("math:sqrt")(9)
    3.0
    """
    module, _, name = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{target!r} names nothing ({error}): give a function of billhook.models or "
            "module:function"
        ) from error
    return function


def parse_call(call: str) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments, literals, of a call; a bare name has none.

    Raises:
        ConfigurationError: it is something else.

    >>> parse_call("mobilenet_v1(width=0.5)")
    ('mobilenet_v1', {'width': 0.5})
    """
    try:
        node = ast.parse(call, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            values = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
            return node.func.id, values
    except (SyntaxError, ValueError):
        pass
    raise ConfigurationError(
        f"{call!r} is not a name or name(key=value, ...) with numbers, strings, lists and the like"
    )
