"""A model's modules and settings as data: a program's file only opens with the same model."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from billhook.errors import CompileError

__all__ = ["check_architecture", "dense_tensors", "describe"]


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Each module's kind and settings (what its class lists in ``__constants__``), by name.

    >>> describe(nn.Linear(3, 2))
    {'': {'kind': 'Linear', 'in_features': 3, 'out_features': 2}}
    """
    return {name: _settings(module) for name, module in model.named_modules()}


def _settings(module: nn.Module) -> dict[str, Any]:
    names = [*getattr(module, "__constants__", ()), "num_heads"]
    settings = {name: getattr(module, name) for name in names if hasattr(module, name)}
    plain = {name: _plain(value) for name, value in settings.items()}
    return {"kind": type(module).__name__, **{n: v for n, v in plain.items() if v is not None}}


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, None for one it has no type for."""
    if isinstance(value, tuple | list):
        parts = [_plain(part) for part in value]
        return None if None in parts else parts
    return value if isinstance(value, bool | int | float | str) else None


def check_architecture(wanted: Mapping[str, Mapping[str, Any]], model: nn.Module) -> None:
    """Raises CompileError unless the model is made as :func:`describe` said.

    >>> check_architecture(describe(nn.Linear(3, 2)), nn.Linear(3, 4))
    Traceback (most recent call last):
    ...
    billhook.errors.CompileError: the model's out_features is 4, the program was compiled for 2: ...
    """
    given = describe(model)
    for name in [*wanted, *given]:
        where = f"module {name!r}" if name else "the model"
        if name not in given or name not in wanted:
            has = "lacks" if name in wanted else "has"
            raise CompileError(
                f"the program was compiled from another model: this one {has} {where}"
            )
        for setting, value in wanted[name].items():
            found = given[name].get(setting, value)  # another torch may know fewer settings
            if found != value:
                raise CompileError(
                    f"{where}'s {setting} is {found}, the program was compiled for {value}: "
                    "build the model as it was"
                )


def dense_tensors(
    model: nn.Module, replaced: Collection[nn.Module] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers outside the modules that are replaced, each once, by name."""
    inside = {id(part) for module in replaced for part in module.modules()}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if id(module) in inside:
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor
