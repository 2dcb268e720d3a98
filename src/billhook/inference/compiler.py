"""``compile``: a pruned model to a program that skips its zeros."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import CompileError, ConfigurationError
from billhook.inference import kernels
from billhook.inference.checks import check_fp32, check_kind, check_model
from billhook.inference.compiled import CompiledModel, isa_of
from billhook.inference.example import describe_inputs
from billhook.inference.graph import Layer, Op, UnsupportedError, capture_graph
from billhook.inference.graph.capture.export import Captured
from billhook.inference.graph.lengths import Lengths
from billhook.inference.graph.soundness import check_choices
from billhook.inference.inputs import positional
from billhook.inference.int8.compiler import compile_int8
from billhook.inference.int8.ranges import Calibration
from billhook.inference.isa import best, name_of
from billhook.inference.layers.architecture import describe
from billhook.inference.layers.base import foreign_hooks
from billhook.inference.layers.race import choose_modules
from billhook.inference.layers.replacement import replace_modules
from billhook.inference.lengths import Varying, for_every_length, other_lengths
from billhook.inference.network.network import Network
from billhook.inference.network.race import race_network
from billhook.inference.plan import Choice, Plan, Precision
from billhook.inference.race import race, winner
from billhook.inference.report import CompileReport, LayerReport
from billhook.inference.verification import Trials, UnstableError, buffers_kept, unchanged
from billhook.inference.weights.csr import SparseWeight, sparse

__all__ = ["compile"]

Inputs = tuple[Any, ...]


def compile(
    model: nn.Module | str | os.PathLike[str],
    example_inputs: Any,
    plan: Plan | Mapping[str, Any] | None = None,
    *,
    precision: Precision = "fp32",
    calibration: Calibration | Iterable[Any] | None = None,
    standalone: bool = False,
) -> CompiledModel:
    """A program for the CPU that skips the model's zeros and returns the same outputs.

    A model whose operations are all known becomes one native program with batch norm folded in; in
    any other model the linear, convolution, attention, LSTM and GRU layers are replaced one by one.
    Each layer's kernels are raced, dense among them, on the example inputs, with
    ``torch.get_num_threads()`` threads; a model that torch runs faster dense stays dense and the
    report says so. Outputs agree with the dense model's to a relative error of 1e-5 (2-norm), or,
    where the model itself rounds by more, are at most twice as far as its own from what it computes
    in fp64. This is checked on the example inputs, and to 1e-4 on variations of them (perturbed,
    scaled with the sign turned, another batch size): a program that differs is not used, its layers
    are replaced one by one instead, and the report says why. A pruned weight contributes nothing,
    whatever its input: where a dense layer makes 0 * inf = NaN, the compiled one does not.

    The batch size may vary. So may the length of sequences, if the model takes other lengths than
    the example's: one program runs them too where the sizes in it follow from the length, as those
    of an LSTM do; otherwise layers are replaced one by one, unless it is to be ``standalone``. It
    computes in fp32, under autocast too.

    ``precision="int8"`` makes a program in 8 bits, whose outputs differ by what rounding changes:
    weights s8 with a step for each output channel, activations u8 with ranges from the calibration
    batches, sums s32. Linear, recurrent and attention layers that are replaced one by one bring
    each sample to bytes at its own step. Gates, cell states and logits stay fp32, and so does every
    layer that does not run faster in 8 bits. The report says for each layer what runs, and how
    much the outputs change on held-out batches. Results are the same bits with every kernel and
    instruction set.

    Args:
        model: In evaluation mode, on the CPU, its pruned weights exactly zero. Not changed. Or the
            path of an ONNX file with zeros, which :func:`billhook.onnx.load_onnx` reads.
        example_inputs: The input that the layers race on; a tuple of the positional inputs; or a
            dict of inputs by the names of forward's arguments.
        plan: A plan of an earlier ``compile`` to replay instead of racing, for bit-equal results.
        precision: "fp32" or "int8".
        calibration: For int8: some hundred samples, as an iterable of batches that the model takes,
            or a :class:`Calibration` of them.
        standalone: Make one program even where torch is as fast, or for the example's length alone
            where others do not follow from it, so that the file that ``save`` writes does not need
            the model's Python code, and runs without torch too (docs/deploy.md). For fp32.

    Raises:
        ConfigurationError: The model is not a torch.nn.Module or is TorchScript; it is in training
            mode, not fp32 or not on the CPU; the plan is none; int8 lacks calibration data, or a
            batch does not fit.
        CompileError: The plan was made for another model, its program's outputs differ from the
            model's, the model's own outputs differ from call to call, or ``standalone`` is asked
            for and an operation of the model is not known.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    >>> fast = compile(model, torch.ones(1, 64))
    >>> torch.allclose(fast(torch.ones(2, 64)), model(torch.ones(2, 64)), atol=1e-5)
    True
    >>> [layer.name for layer in fast.report().layers]
    ['0']

    >>> batches = [torch.rand(32, 64) for _ in range(4)]
    >>> small = compile(model, torch.ones(1, 64), precision="int8", calibration=batches)
    >>> [layer.precision in ("fp32", "int8") for layer in small.report().layers]
    [True]
    """
    if isinstance(model, str | os.PathLike):
        from billhook.onnx import load_onnx

        model = load_onnx(model)
    check_kind(model)
    inputs = positional(model, example_inputs)
    check_model(model, inputs)
    if isinstance(plan, Mapping):
        plan = Plan.from_dict(plan)
    if standalone and (plan is not None or precision != "fp32"):
        raise ConfigurationError(
            "standalone=True is for fp32 without plan=: a plan says itself what it is of"
        )
    if precision == "int8":
        with torch.no_grad(), torch.autocast("cpu", enabled=False), unchanged(model):
            compiled = compile_int8(model, inputs, calibration, plan)
        compiled.remember(describe_inputs(inputs))
        return compiled
    check_fp32(precision, calibration, plan)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), unchanged(model):
        trials = Trials(model, inputs)
        if standalone:
            compiled = _standalone(model, inputs, trials)
        elif plan is None:
            compiled = _raced(model, inputs, trials)
        else:
            compiled = _replayed(model, inputs, plan)
            trials.check(compiled)
    compiled.remember(describe_inputs(inputs))
    return compiled


def _capture(model: nn.Module, inputs: Inputs) -> Captured:
    hooked = next((name for name, m in model.named_modules() if foreign_hooks(m)), None)
    if hooked is not None:
        raise UnsupportedError(
            f"{hooked or 'the model'} has forward hooks, which one program would not call"
        )
    return capture_graph(model, inputs)


def _capture_for_any_length(model: nn.Module, inputs: Inputs) -> tuple[Captured, Varying | None]:
    """The graph, and what those of other lengths follow from, if the model takes others.

    Raises:
        UnsupportedError: There is none, or none for the other lengths that the model takes.
    """
    return _for_any_length(model, _capture(model, inputs), inputs)


def _for_any_length(
    model: nn.Module, captured: Captured, inputs: Inputs
) -> tuple[Captured, Varying | None]:
    """The same of a model whose graph for the example's length is known."""
    with buffers_kept(model):
        return for_every_length(model, partial(_capture, model), captured, inputs)


def _network(
    captured: Captured, choices: Mapping[str, Choice], isa: int, lengths: Lengths | None = None
) -> Network:
    graph, pack = captured
    owned = graph.with_ops(_owned(graph.ops, choices))
    return Network(owned, choices, isa, pack=pack, lengths=lengths)


def _owned(ops: Sequence[Op], choices: Mapping[str, Choice]) -> list[Op]:
    """The operations with numbers of their own, which training the model on does not change."""
    own: list[Op] = []
    for op in ops:
        if isinstance(op, Layer):
            weight: torch.Tensor | SparseWeight = op.weight
            if choices[op.name].kernel != "dense":
                weight = sparse(op.weight)
            elif isinstance(op.weight, torch.Tensor):
                weight = op.weight.clone()
            bias = None if op.bias is None else op.bias.clone()
            own.append(replace(op, weight=weight, bias=bias))
        else:
            own.append(op)
    return own


@dataclass(frozen=True)
class _Form:
    """A program, its plan, what was measured of its layers, and what the report says of it."""

    program: nn.Module
    plan: Plan
    layers: Sequence[LayerReport]
    why: str


def _raced(model: nn.Module, inputs: Inputs, trials: Trials) -> CompiledModel:
    """One program or layer by layer, whichever is faster, or dense; the report says why."""
    if not kernels.available():
        return _dense(
            model, trials, "this installation has no native kernels (no compiler at build time)"
        )
    forms: dict[str, _Form] = {}
    why = "one program takes every length too"
    try:
        captured, lengths = _capture_for_any_length(model, inputs)
        forms["as one program"] = _one_program(captured, lengths, inputs, trials)
    except UnstableError:
        raise
    except (UnsupportedError, CompileError) as obstacle:
        why = f"no network plan, because {obstacle}"
        lengths = None
    if lengths is not None or not forms:  # layers multiply a whole batch at once
        modules = _modules(model, inputs, trials, why)
        if isinstance(modules, _Form):
            forms["one by one"] = modules
        elif not forms:
            return _dense(model, trials, *modules)
    return _fastest(model, inputs, trials, forms)


def _fastest(
    model: nn.Module, inputs: Inputs, trials: Trials, forms: Mapping[str, _Form]
) -> CompiledModel:
    with ExitStack() as kept:
        kept.enter_context(buffers_kept(model))
        calls: dict[str, Callable[[], object]] = {"dense": lambda: model(*inputs)}
        for name, form in forms.items():
            kept.enter_context(unchanged(form.program))
            calls[name] = partial(form.program, *inputs)
        times = race(calls)
    best = winner(times, "dense")
    if best == "dense":
        layers = next(iter(forms.values())).layers
        why = "the whole model is as fast dense in torch"
        return _dense(model, trials, why, layers, times["dense"])
    form = forms[best]
    others = [f"{name} {times[name]:.3f} ms" for name in forms if name != best]
    why = f"{form.why} ({times[best]:.3f} ms, {others[0]})" if others else form.why
    report = CompileReport.of(form.plan, why, form.layers, times["dense"], times[best])
    return CompiledModel(form.program, form.plan, report, describe(model))


def _modules(
    model: nn.Module, inputs: Inputs, trials: Trials, why: str
) -> _Form | tuple[str, Sequence[LayerReport]]:
    """The layers replaced one by one; or why they are not, and what was measured."""
    isa = kernels.isa()
    with buffers_kept(model):
        choices, layers = choose_modules(model, lambda m: m(*inputs), isa)
    if all(choice.kernel == "dense" for choice in choices.values()):
        return f"no layer is faster sparse; {why}", layers
    program = replace_modules(model, choices, isa)
    try:
        trials.check(program)
    except UnstableError:
        raise
    except CompileError as error:
        return f"with its layers replaced, {error}", layers
    return _Form(program, Plan("modules", name_of(isa), choices), layers, _one_by_one(model, why))


def _one_program(
    captured: Captured, lengths: Varying | None, inputs: Inputs, trials: Trials
) -> _Form:
    isa = kernels.isa()
    choices, layers = race_network(captured[0], inputs, isa)
    program = _network(captured, choices, isa, lengths.rule if lengths else None)
    trials.check(program, other_lengths(inputs, lengths.size) if lengths else ())
    why = "the whole network is one program" + (" for every length" if lengths else "")
    return _Form(program, Plan("network", name_of(isa), choices), layers, why)


def _standalone(model: nn.Module, inputs: Inputs, trials: Trials) -> CompiledModel:
    """One program, whether or not torch is as fast; for every length if they follow from one."""
    if not kernels.available():
        raise CompileError(
            "standalone=True needs the native kernels, and this installation has none (no compiler "
            "at build time)"
        )
    try:
        captured = _capture(model, inputs)
    except UnsupportedError as obstacle:
        raise CompileError(
            f"the model cannot become one program: {obstacle}; without standalone=True its layers "
            "are replaced one by one"
        ) from obstacle
    try:
        form = _one_program(*_for_any_length(model, captured, inputs), inputs, trials)
    except UnstableError:
        raise
    except (UnsupportedError, CompileError):  # for the example's length alone, then
        form = _one_program(captured, None, inputs, trials)
    program = form.program
    with buffers_kept(model), unchanged(program):
        times = race({"dense": lambda: model(*inputs), "compiled": lambda: program(*inputs)})
    why = f"{form.why}, as standalone=True asks for"
    report = CompileReport.of(form.plan, why, form.layers, times["dense"], times["compiled"])
    return CompiledModel(program, form.plan, report, describe(model))


def _one_by_one(model: nn.Module, why: str) -> str:
    norms = any(isinstance(m, torch_private.BatchNorm) for m in model.modules())
    # Only a graph shows that nothing but the norm reads what a layer gives.
    unfolded = ", batch norm is not folded" if norms else ""
    return f"layers are replaced one by one{unfolded}; {why}"


def _dense(
    model: nn.Module,
    trials: Trials,
    why: str,
    layers: Sequence[LayerReport] = (),
    milliseconds: float | None = None,
) -> CompiledModel:
    plan = Plan("dense", best("fp32") if kernels.available() else "portable")
    program = copy.deepcopy(model).eval()
    trials.check(program)
    report = CompileReport.of(plan, why, layers, milliseconds, milliseconds)
    return CompiledModel(program, plan, report, describe(model))


def _replayed(model: nn.Module, inputs: Inputs, plan: Plan) -> CompiledModel:
    why, architecture = "a plan was replayed", describe(model)
    if plan.mode == "dense":
        program = copy.deepcopy(model).eval()
        return CompiledModel(program, plan, CompileReport.of(plan, why), architecture)
    isa = isa_of(plan)
    if plan.mode == "modules":
        program = replace_modules(model, plan.layers, isa)
        return CompiledModel(program, plan, CompileReport.of(plan, why), architecture)
    lengths: Varying | None = None
    try:
        captured = _capture(model, inputs)
        with suppress(UnsupportedError):
            captured, lengths = _for_any_length(model, captured, inputs)
    except UnsupportedError as obstacle:
        raise CompileError(f"the plan is of a whole network, but {obstacle}") from obstacle
    try:
        check_choices(captured[0].ops, plan.layers)
    except ValueError as error:
        raise CompileError(f"{error}: compile without plan=") from error
    network = _network(captured, plan.layers, isa, lengths.rule if lengths else None)
    return CompiledModel(network, plan, CompileReport.of(plan, why), architecture)
