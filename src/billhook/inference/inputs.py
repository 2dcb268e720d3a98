"""What every compiled layer and program asks of its inputs."""

from typing import Any

import torch

from billhook.errors import ConfigurationError

__all__ = ["check_input"]


def check_input(name: str, x: Any) -> None:
    """Raises ConfigurationError unless the input is an fp32 CPU tensor that needs no gradient.

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
    if torch._C._get_tracing_state() is not None:
        raise ConfigurationError(
            f"{name} runs native kernels, which torch.jit.trace and the ONNX exporter cannot "
            "record: trace or export the model that was compiled, and save the compiled one with "
            "billhook.save(compiled, path)"
        )
    if x.is_nested:
        raise ConfigurationError(
            f"{name} takes no nested tensors, which a TransformerEncoder makes of padded batches "
            "unless it is built with enable_nested_tensor=False"
        )
    if not x.is_cpu or x.dtype != torch.float32 or x.layout != torch.strided:
        raise ConfigurationError(
            f"{name} was compiled for fp32 on the CPU, its input is {x.dtype} on {x.device} "
            f"({x.layout}): convert the input"
        )
    if torch.is_grad_enabled() and x.requires_grad:
        raise ConfigurationError(
            f"{name} is compiled for inference and its input requires a gradient: "
            "call it under torch.no_grad()"
        )
