"""A compiled model: what ``compile`` returns and ``load_compiled`` opens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from billhook import torch_private
from billhook.errors import CompileError, ConfigurationError
from billhook.inference import isa, kernels
from billhook.inference.example import Described, describe_inputs, example_of
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.program import int8_network_tensors
from billhook.inference.layers.program import module_tensors, tensor_bytes
from billhook.inference.network.network import Network
from billhook.inference.network.program import network_tensors
from billhook.inference.plan import Plan
from billhook.inference.report import CompileReport

__all__ = ["CompiledModel", "isa_of"]


def _refuse_gradients(*inputs: Any) -> None:
    """The outputs would not depend on the inputs, as far as autograd knows."""
    if any(torch.is_tensor(x) and x.requires_grad for x in torch_private.leaves(inputs)):
        raise ConfigurationError(
            "the input requires a gradient and a compiled model has none: call it under "
            "torch.no_grad(), or detach the input"
        )


class CompiledModel(nn.Module):
    """A compiled model: the signature and the outputs of the model it was made of.

    It runs without autograd, and in fp32 under autocast too. Several threads may call it at once,
    it can be copied with :mod:`copy` and pickled. Where the model's layers were replaced one by
    one, its other attributes and methods can be reached: ``compiled.config``.
    """

    is_program = True  # for billhook.save, which knows models only

    def __init__(
        self, program: nn.Module, plan: Plan, report: CompileReport, architecture: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.program = program
        self._plan, self._report, self._architecture = plan, report, architecture
        self._inputs: Described | None = None
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``."""
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.forward(*args, **kwargs)
        if not torch.is_grad_enabled():
            return self.program(*args, **kwargs)
        _refuse_gradients(args, kwargs)
        with torch.no_grad():
            return self.program(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            program = self.__dict__.get("_modules", {}).get("program")
            whole = isinstance(program, Network | Int8Network)
            if program is None or whole or name.startswith("__"):
                raise
            return getattr(program, name)

    def train(self, mode: bool = True) -> "CompiledModel":
        """A compiled model stays in evaluation mode."""
        if mode:
            raise ConfigurationError(
                "a compiled model is for inference only: train the model and compile it again"
            )
        return super().train(False)

    def state_dict(self, *_: Any, **around: Any) -> Any:
        """The program as tensors, for :func:`billhook.save`; ``load_compiled`` reads them.

        Raises:
            ConfigurationError: It is part of another module, whose state_dict would lack it.
        """
        if around.get("destination") is not None:
            raise ConfigurationError(
                f"{around.get('prefix', '').rstrip('.') or 'a part'} is a compiled model, which is "
                "not in the state_dict of a module around it: billhook.save(compiled, path) writes "
                "it by itself"
            )
        if isinstance(self.program, Int8Network):
            sample: Described = [{"shape": [1, *self.program.sample_shape], "dtype": "F32"}]
            return int8_network_tensors(self.program, self._plan, example_of(self, sample))
        if isinstance(self.program, Network):
            given = self._inputs or describe_inputs(self.program.graph.example())
            return network_tensors(self.program, self._plan, example_of(self, given))
        example = example_of(self, self._inputs)
        return module_tensors(self.program, self._plan, self._architecture, example)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refused: the weights are packed for the kernels."""
        raise ConfigurationError(
            "a compiled model takes no state_dict: load it into the dense model and compile again"
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        moved = fn(torch.zeros(1))  # what half(), to(...), cuda() and the like do to fp32 weights
        if (moved.dtype, moved.device.type) != (torch.float32, "cpu"):
            raise ConfigurationError(
                f"a compiled model computes in fp32 on the CPU and cannot become {moved.dtype} on "
                f"{moved.device}: move its inputs to the CPU, or use the model that was compiled"
            )
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def remember(self, inputs: Described | None) -> None:
        """Of what kind the inputs are with which files of the program are checked when opened."""
        self._inputs = inputs

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors torch uses, and of the packed weights that kernels have read."""
        if isinstance(self.program, Network | Int8Network):
            return self.program.nbytes
        return tensor_bytes(self.program)

    def report(self) -> CompileReport:
        """Each layer's times, what runs it, and why; ``print`` it for a table."""
        return self._report

    def saturated(self, x: torch.Tensor) -> dict[str, float]:
        """A debug run of a network in 8 bits: of each operation's values, by its name, the share
        that lies beyond the calibrated range and is held at its end. ReLU's zeros do not count.

        It takes some hundred times as long as a call. Layers that were replaced one by one have no
        calibrated ranges.

        Args:
            x: As the model takes it.

        Raises:
            ConfigurationError: This is another program.
        """
        if not isinstance(self.program, Int8Network):
            raise ConfigurationError(
                f"a program of mode {self._plan.mode!r} in {self._plan.precision} has no "
                "calibrated ranges: compile a network with precision='int8'"
            )
        self(x)  # whatever is wrong with the input, is an error there
        return self.program.saturated(x)

    @property
    def plan(self) -> Plan:
        """What was chosen, as data; ``compile(model, inputs, plan=...)`` replays it."""
        return self._plan


def isa_of(plan: Plan) -> int:
    """The instruction set of a plan, a row of the library's table.

    Raises:
        CompileError: This machine does not run it.
    """
    if not kernels.available():
        raise CompileError(
            "this installation has no native kernels (no compiler at build time), which a sparse "
            "program needs"
        )
    if plan.precision == "int8":  # of its layers in fp32
        return kernels.isa()
    if plan.isa not in isa.supported("fp32"):
        raise CompileError(
            f"the plan needs {plan.isa} kernels, which this machine does not run: "
            "compile without plan="
        )
    return isa.index_of(plan.isa, "fp32")
