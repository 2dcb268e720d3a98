"""A copy of a model in which some layers are replaced, and its dense tensors by others."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from billhook.errors import CompileError, ConfigurationError
from billhook.inference.layers.base import SparseLayer
from billhook.inference.layers.kinds import candidates, kind_of, make_sparse, obstacle
from billhook.inference.plan import Choice

__all__ = ["copy_with", "layers_to_replace", "replace_modules"]


def layers_to_replace(model: nn.Module, choices: Mapping[str, Choice]) -> dict[str, nn.Module]:
    """The layers that are not chosen dense, by name.

    Raises:
        CompileError: A choice names a layer that the model does not have, or that cannot be sparse.
    """
    layers = dict(candidates(model))
    found = {}
    for name, choice in choices.items():
        if name not in layers:
            raise CompileError(
                f"the plan has a layer {name!r} that this model lacks: "
                "it was made for another model; compile without plan="
            )
        if choice.kernel == "dense":
            continue
        why = obstacle(layers[name]) or _misfit(layers[name], choice)
        if why is not None:
            raise CompileError(f"the plan makes {name!r} sparse, but {why}")
        found[name] = layers[name]
    return found


def _misfit(module: nn.Module, choice: Choice) -> str | None:
    """The reason why a kernel cannot run a layer, or None: it would read outside of the arrays."""
    runs = kind_of(module).kernels_for(module)
    return None if choice.kernel in runs else f"{choice.kernel!r} cannot run it"


def replace_modules(model: nn.Module, choices: Mapping[str, Choice], isa: int) -> nn.Module:
    """A copy of the model in which the layers that are not chosen dense are sparse ones.

    Raises:
        CompileError: The choices do not fit the model.
    """
    layers = layers_to_replace(model, choices)
    sparse = {name: make_sparse(layer, choices[name], isa) for name, layer in layers.items()}
    return copy_with(model, {id(layers[name]): layer for name, layer in sparse.items()}, {})


def copy_with(
    model: nn.Module, layers: Mapping[int, SparseLayer], tensors: Mapping[int, torch.Tensor]
) -> nn.Module:
    """A copy with other modules and tensors in the places of those with these ids.

    What is replaced is not copied, so no dense weight of a replaced layer is made.
    """
    program: nn.Module = copy.deepcopy(model, {**layers, **tensors})
    for module in program.modules():
        if not any(isinstance(part, SparseLayer) for part in module.modules()):
            continue
        # Its fast path reads the weights of its layers instead of calling them.
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
            module.use_nested_tensor = False
            module.register_forward_pre_hook(_refuse_padding, with_kwargs=True)
    return program.eval()


def _refuse_padding(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before an encoder that would have made nested tensors, and then zeros of the padding."""
    given = args[2] if len(args) > 2 else kwargs.get("src_key_padding_mask")
    if given is not None:
        raise ConfigurationError(
            "this TransformerEncoder was compiled without src_key_padding_mask, with which it "
            "makes nested tensors: build it with enable_nested_tensor=False"
        )
