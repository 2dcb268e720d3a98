"""``compile``: a pruned model to a program that skips its zeros."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from billhook.errors import CompileError, ConfigurationError
from billhook.inference import kernels
from billhook.inference.compiled import CompiledModel, NetworkModule, finish, isa_of
from billhook.inference.graph import UnsupportedError, capture
from billhook.inference.graph.soundness import check_choices
from billhook.inference.layers.architecture import describe
from billhook.inference.layers.race import choose_modules
from billhook.inference.layers.replacement import replace_modules
from billhook.inference.network.network import Network
from billhook.inference.network.race import race_network
from billhook.inference.plan import Choice, Mode, Plan
from billhook.inference.race import race, winner
from billhook.inference.report import LayerReport

__all__ = ["compile"]

# Relative error, in the 2-norm, beyond which a compiled model is refused.
TOLERANCE = 1e-5


def compile(
    model: nn.Module,
    example_inputs: Any,
    plan: Plan | Mapping[str, Any] | None = None,
) -> CompiledModel:
    """A program for the CPU that skips the model's zeros and returns the same outputs.

    A feed-forward CNN becomes one native program with batch norm folded in; in any other model the
    linear, convolution, attention, LSTM and GRU layers are replaced one by one. Each layer's
    kernels are raced, dense among them, on the example inputs, with ``torch.get_num_threads()``
    threads; a model that torch runs faster dense stays dense and the report says so. Outputs agree
    with the dense model's to a relative error of 1e-5 (2-norm), which is checked on the example
    inputs. A pruned weight contributes nothing, whatever its input: where a dense layer makes
    0 * inf = NaN, the compiled one does not.

    The batch size may vary, and for sequence models the length; a CNN compiled as one program takes
    the example's height and width only. fp32.

    Args:
        model: In evaluation mode, on the CPU, its pruned weights exactly zero. Not changed.
        example_inputs: The input, or a tuple of the positional inputs, that the layers race on.
        plan: A plan of an earlier ``compile`` to replay instead of racing, for bit-equal results.

    Raises:
        ConfigurationError: The model is in training mode, not fp32 or not on the CPU; the plan is
            none.
        CompileError: The plan was made for another model, or the outputs would differ.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    >>> fast = compile(model, torch.ones(1, 64))
    >>> torch.allclose(fast(torch.ones(2, 64)), model(torch.ones(2, 64)), atol=1e-5)
    True
    >>> [layer.name for layer in fast.report().layers]
    ['0']
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    _check(model, inputs)
    if isinstance(plan, Mapping):
        plan = Plan.from_dict(plan)
    with torch.no_grad():
        expected = model(*inputs)
        compiled = _raced(model, inputs) if plan is None else _replayed(model, inputs, plan)
        _verify(compiled, inputs, expected)
    return compiled


def _check(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    training = next((name for name, m in model.named_modules() if m.training), None)
    if training is not None:
        raise ConfigurationError(
            f"{training or 'the model'} is in training mode: call model.eval() before compile"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tensors += [("an example input", x) for x in pytree.tree_leaves(inputs) if torch.is_tensor(x)]
    for name, tensor in tensors:
        if tensor.device.type != "cpu":
            raise ConfigurationError(f"{name} is on {tensor.device}: compile takes CPU models")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigurationError(f"{name} is {tensor.dtype}: compile takes fp32; use .float()")


def _capture(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    if len(inputs) != 1 or not torch.is_tensor(inputs[0]) or inputs[0].dim() != 4:
        raise UnsupportedError("the network plan takes one input of (N, C, H, W)")
    return capture(model, inputs[0])


def _network(ops: Any, x: torch.Tensor, choices: dict[str, Choice], isa: int) -> nn.Module:
    shape = (x.shape[1], x.shape[2], x.shape[3])
    return NetworkModule(Network(ops, shape, choices, isa)).eval()


def _raced(model: nn.Module, inputs: tuple[Any, ...]) -> CompiledModel:
    if not kernels.available():
        return _dense(model, "this installation has no native kernels (no compiler at build time)")
    isa = kernels.isa()
    mode: Mode
    try:
        ops = _capture(model, inputs)
        choices, layers = race_network(ops, inputs[0], isa)
        mode, why = "network", "the whole network is one program"
        program = _network(ops, inputs[0], choices, isa)
    except UnsupportedError as obstacle:
        mode, why = "modules", _one_by_one(model, obstacle)
        choices, layers = choose_modules(model, lambda m: m(*inputs), isa)
        program = replace_modules(model, choices, isa)
    times = race({"dense": lambda: model(*inputs), "compiled": lambda: program(*inputs)})
    if all(choice.kernel == "dense" for choice in choices.values()) and mode == "modules":
        return _dense(model, "no layer is faster sparse", layers, times)
    if winner(times, "dense") == "dense":
        return _dense(model, "the whole model is as fast dense in torch", layers, times)
    plan = Plan(mode, kernels.ISA_NAMES[isa], choices)
    return finish(program, plan, why, describe(model), layers=layers, times=times)


def _one_by_one(model: nn.Module, obstacle: UnsupportedError) -> str:
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    # Only a graph shows that nothing but the norm reads what a layer gives.
    unfolded = ", batch norm is not folded" if norms else ""
    return f"layers are replaced one by one{unfolded}; no network plan, because {obstacle}"


def _dense(
    model: nn.Module,
    why: str,
    layers: list[LayerReport] | None = None,
    times: Mapping[str, float] | None = None,
) -> CompiledModel:
    times = {} if times is None else {"dense": times["dense"], "compiled": times["dense"]}
    isa = kernels.ISA_NAMES[kernels.isa()] if kernels.available() else "portable"
    program = copy.deepcopy(model).eval()
    return finish(program, Plan("dense", isa), why, describe(model), layers=layers, times=times)


def _replayed(model: nn.Module, inputs: tuple[Any, ...], plan: Plan) -> CompiledModel:
    if plan.mode == "dense":
        return _dense(model, "the plan says so")
    isa = isa_of(plan)
    choices = dict(plan.layers)
    if plan.mode == "modules":
        program = replace_modules(model, choices, isa)
    else:
        try:
            ops = _capture(model, inputs)
        except UnsupportedError as obstacle:
            raise CompileError(f"the plan is of a whole network, but {obstacle}") from obstacle
        try:
            check_choices(ops, choices)
        except ValueError as error:
            raise CompileError(f"{error}: compile without plan=") from error
        program = _network(ops, inputs[0], choices, isa)
    return finish(program, plan, "a plan was replayed", describe(model))


def _verify(compiled: CompiledModel, inputs: tuple[Any, ...], expected: Any) -> None:
    """Refuses a program whose outputs differ: a layer we misread must not go unnoticed."""
    try:
        given = compiled(*inputs)
    except Exception as error:
        raise CompileError(
            f"the compiled model fails on the example inputs ({error}): "
            "some module reads a weight of a layer that was replaced"
        ) from error
    pairs = zip(pytree.tree_leaves(given), pytree.tree_leaves(expected), strict=True)
    for got, wanted in pairs:
        if not torch.is_tensor(wanted) or not wanted.is_floating_point():
            continue
        finite = wanted.isfinite()
        size = float(torch.linalg.vector_norm(wanted[finite]))
        distance = float(torch.linalg.vector_norm((got - wanted)[finite]))
        if not distance <= TOLERANCE * size:  # so that NaN is refused
            raise CompileError(
                f"the compiled model's outputs differ by {distance / max(size, 1e-38):.1e} "
                f"from the dense model's on the example inputs ({TOLERANCE} is allowed): "
                "does the model behave differently from call to call?"
            )
