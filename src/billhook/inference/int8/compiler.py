"""``compile(..., precision="int8")``: a pruned model to a program in 8 bits."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from billhook.errors import CompileError, ConfigurationError
from billhook.inference import isa
from billhook.inference.compiled import CompiledModel
from billhook.inference.graph import UnsupportedError
from billhook.inference.int8.accuracy import compare, worst_layer
from billhook.inference.int8.calibrate import calibrate
from billhook.inference.int8.floats import values_of
from billhook.inference.int8.inputs import captured, maps_of
from billhook.inference.int8.modules import choose_int8_modules, replace_int8_modules
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.observers import Observed, found_in, plain
from billhook.inference.int8.ops import Program
from billhook.inference.int8.program import check_program
from billhook.inference.int8.quantise import quantise
from billhook.inference.int8.race import race_network
from billhook.inference.int8.ranges import Calibration, batches_of, split
from billhook.inference.layers.architecture import describe
from billhook.inference.plan import Plan
from billhook.inference.race import race, winner
from billhook.inference.report import Accuracy, CompileReport, LayerReport

__all__ = ["compile_int8"]


def compile_int8(
    model: nn.Module, inputs: tuple[Any, ...], calibration: Any, plan: Plan | None
) -> CompiledModel:
    """The program in 8 bits of a checked model, raced on its example inputs.

    Raises:
        ConfigurationError: There is no calibration data, or it does not fit.
        CompileError: The plan does not fit, or outputs change beyond the calibration's bound.
    """
    if calibration is None:
        raise ConfigurationError(
            "precision='int8' needs calibration data: pass calibration=batches, an iterable of "
            "inputs as the model takes them (some hundred samples)"
        )
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    model, observed = plain(model, inputs)
    work = _Work(model, inputs, calibration, isa.best("int8"), observed)
    return work.raced() if plan is None else work.replayed(plan)


class _Work:
    """One compilation: the model, the example, the batches of both kinds."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        calibration: Calibration,
        best: str,
        observed: list[Observed],
    ) -> None:
        self.model, self.inputs, self.calibration = model, inputs, calibration
        self.instruction_set, self.observed = best, observed
        self.observed_used = 0
        self.batches = batches_of(calibration, inputs)
        self.ranging, self.held, self.held_out = split(self.batches)

    def raced(self) -> CompiledModel:
        """Every layer's kernel from a race, dense torch among the forms of the whole."""
        try:
            program, ops = self._quantised()
        except UnsupportedError as obstacle:
            return self._modules(obstacle)
        choices, layers = race_network(program, self.instruction_set)
        module = Int8Network(program, choices, self.instruction_set)
        worst = partial(self._worst, ops, program)
        plan = Plan("network", self.instruction_set, choices, "int8")
        return self._finished(module, plan, self._whole(), layers=layers, worst=worst)

    def _whole(self) -> str:
        why = "the whole network is one program"
        if not self.observed:
            return why
        count = len({each.name for each in self.observed})
        return f"{why}; {self.observed_used} of {count} observed ranges are used"

    def _quantised(self) -> tuple[Any, Any]:
        x = self.inputs[0]
        if len(self.inputs) != 1 or not torch.is_tensor(x) or x.dtype != torch.float32:
            raise UnsupportedError("the network plan takes one input of fp32")
        graph, takes = captured(self.model, x)
        values = values_of(graph.ops, maps_of(x, takes)) if self.observed else {}
        known = dict(found_in(self.observed, values, takes))
        self.observed_used = len({each.name for each in known.values()})
        bounds = {index: each.bounds for index, each in known.items()}
        batches = [maps_of(batch, takes) for batch in self.ranging]
        ranges = calibrate(graph.ops, batches, self.calibration, bounds)
        return quantise(graph, ranges, takes), graph.ops

    def _worst(self, ops: Any, program: Program) -> tuple[str, float]:
        """The operation that loses most, on what was held out."""
        return worst_layer(ops, program, maps_of(self.held[0], program.takes))

    def _modules(self, obstacle: UnsupportedError) -> CompiledModel:
        choices, layers = choose_int8_modules(
            self.model, lambda m: m(*self.inputs), self.instruction_set
        )
        program = replace_int8_modules(self.model, choices, self.instruction_set)
        why = f"layers are replaced one by one; no network plan, because {obstacle}"
        plan = Plan("modules", self.instruction_set, choices, "int8")
        return self._finished(program, plan, why, layers=layers)

    def replayed(self, plan: Plan) -> CompiledModel:
        """The kernels that a plan names; on a machine without them, others of equal results."""
        if plan.precision != "int8" or plan.mode == "dense":
            raise CompileError(
                f"the plan is of {plan.precision}, mode {plan.mode}: compile without plan="
            )
        chosen = isa.set_for(plan.isa, "int8")
        plan = Plan(plan.mode, chosen, plan.layers, "int8")
        if plan.mode == "modules":
            program = replace_int8_modules(self.model, plan.layers, chosen)
            return self._finished(program, plan, "a plan was replayed", timed=False)
        try:
            quantised, ops = self._quantised()
            check_program(quantised, plan.layers)
        except (UnsupportedError, ValueError) as error:
            raise CompileError(f"the plan does not fit: {error}; compile without plan=") from error
        module = Int8Network(quantised, plan.layers, chosen)
        worst = partial(self._worst, ops, quantised)
        return self._finished(module, plan, "a plan was replayed", worst=worst, timed=False)

    def _finished(
        self,
        program: nn.Module,
        plan: Plan,
        why: str,
        *,
        layers: list[LayerReport] | None = None,
        worst: Callable[[], tuple[str, float]] | None = None,
        timed: bool = True,
    ) -> CompiledModel:
        changed = compare(self.model, program, self.held, self.held_out)
        self._check(changed, worst)
        accuracy: Accuracy | None = changed
        times: Mapping[str, float] = {}
        if timed:
            times = race(
                {
                    "dense": lambda: self.model(*self.inputs),
                    "compiled": lambda: program(*self.inputs),
                }
            )
            if winner(times, "dense") == "dense":
                why = "the whole model is as fast dense in torch"
                program, plan = (
                    copy.deepcopy(self.model).eval(),
                    Plan("dense", isa.best("fp32")),
                )
                times = {"dense": times["dense"], "compiled": times["dense"]}
                accuracy = None
        report = CompileReport.of(
            plan, why, layers or (), times.get("dense"), times.get("compiled")
        )
        report = replace(report, accuracy=accuracy)
        return CompiledModel(program, plan, report, describe(self.model))

    def _check(self, accuracy: Accuracy, worst: Callable[[], tuple[str, float]] | None) -> None:
        if accuracy.relative_error <= self.calibration.bound:
            return
        where = ""
        if worst is not None:
            name, error = worst()
            where = f", of which {name!r} adds the most ({error:.2f})"
        raise CompileError(
            f"in 8 bits the outputs change by {accuracy.relative_error:.2f} in the 2-norm on "
            f"{'held-out ' if accuracy.held_out else ''}calibration batches{where}; "
            f"{self.calibration.bound} is allowed: calibrate with more typical batches or another "
            "method, or raise Calibration(bound=)"
        )
