"""What ``compile`` refuses to begin with: other models, inputs and arguments than it is for."""

from typing import Any

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.inference.compiled import CompiledModel
from billhook.inference.layers.base import SparseLayer
from billhook.inference.plan import Plan

__all__ = ["check_fp32", "check_kind", "check_model"]


def check_fp32(precision: str, calibration: object, plan: Plan | None) -> None:
    """Raises ConfigurationError where arguments are for 8 bits, or the precision is unknown."""
    if precision != "fp32":
        raise ConfigurationError(f"precision={precision!r}: known are 'fp32' and 'int8'")
    if calibration is not None:
        raise ConfigurationError("calibration= is for precision='int8': fp32 has no ranges")
    if plan is not None and plan.precision != "fp32":
        raise ConfigurationError(
            f"the plan is of {plan.precision}: pass precision={plan.precision!r} and calibration="
        )


def check_kind(model: object) -> None:
    """Raises ConfigurationError unless it is a module whose layers can be replaced."""
    if not isinstance(model, nn.Module):
        what = model.__name__ if isinstance(model, type) else type(model).__name__
        raise ConfigurationError(f"compile takes a torch.nn.Module, not {what}: give an instance")
    parts = model.named_modules()
    name = next((n for n, m in parts if isinstance(m, torch.jit.ScriptModule)), None)
    if name is not None:
        raise ConfigurationError(
            f"{name or 'the model'} is a TorchScript module, whose layers cannot be replaced: "
            "compile the model that was scripted or traced"
        )
    parts = model.named_modules()
    name = next((n for n, m in parts if isinstance(m, CompiledModel | SparseLayer)), None)
    if name is not None:
        raise ConfigurationError(
            f"{name or 'the model'} is compiled already, and its weights are packed: compile the "
            "dense model as a whole"
        )


def check_model(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises ConfigurationError unless it is in evaluation mode, in fp32 and on the CPU."""
    training = next((name for name, m in model.named_modules() if m.training), None)
    if training is not None:
        raise ConfigurationError(
            f"{training or 'the model'} is in training mode: call model.eval() before compile"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors += [("an example input", x) for x in torch_private.leaves(inputs) if torch.is_tensor(x)]
    for name, tensor in tensors:
        if tensor.device.type != "cpu":
            raise ConfigurationError(
                f"{name} is on {tensor.device}: compile takes models on the CPU; use .cpu()"
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigurationError(f"{name} is {tensor.dtype}: compile takes fp32; use .float()")
