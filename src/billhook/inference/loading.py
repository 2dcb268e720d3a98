"""``load_compiled``: from a file that ``billhook.save`` wrote to a program that runs."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from billhook.errors import ConfigurationError, FormatError
from billhook.format.reader import Reader
from billhook.inference.compiled import CompiledModel, isa_of
from billhook.inference.example import check_example
from billhook.inference.int8.modules import open_int8_modules
from billhook.inference.int8.network import Int8Network
from billhook.inference.int8.program import read_int8_network, takes_at_most
from billhook.inference.isa import set_for
from billhook.inference.kernels import available
from billhook.inference.layers.program import open_modules
from billhook.inference.limits import Limits
from billhook.inference.network.network import Network
from billhook.inference.network.program import read_lengths, read_network
from billhook.inference.plan import Plan
from billhook.inference.program_file import TEXT, read_text
from billhook.inference.report import CompileReport

__all__ = ["is_program", "load_compiled"]


def load_compiled(path: str | os.PathLike[str], model: nn.Module | None = None) -> CompiledModel:
    """The program that ``billhook.save(compiled, path)`` wrote, ready to run.

    No weight that runs sparse is ever dense, so starting takes little more memory than the program.
    The results have the same bits as on the machine that compiled it, unless this one lacks the
    instruction set of its plan: then this machine's own kernels run, whose sums round otherwise
    (``compiled.plan.isa`` says which).

    Args:
        path: The file.
        model: The model that was compiled, whatever its weights: it is not changed, its parameters
            and buffers are not read, and it takes no memory if built under
            ``torch.device("meta")``. A whole network's file needs none and ignores it: only the
            code of models whose layers were replaced one by one (``compiled.plan.mode``) is not in
            the file.

    Raises:
        FormatError: The file is damaged, holds no compiled program, or one whose outputs on the
            example in it are others than when it was saved.
        ConfigurationError: The file needs a model, and none is given.
        CompileError: The model is another one, or this installation has no native kernels.

    >>> import billhook, torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    >>> x = torch.rand(1, 3, 16, 16)
    >>> layers = {"0": {"kernel": "spmm", "vectors": 8}}
    >>> plan = {"version": 1, "mode": "network", "isa": "portable", "layers": layers}
    >>> fast = billhook.compile(model, x, plan=plan)
    >>> _ = billhook.save(fast, "program.billhook.safetensors")
    >>> torch.equal(load_compiled("program.billhook.safetensors")(x), fast(x))
    True

    >>> lstm, plan = torch.nn.LSTM(16, 16).eval(), {**plan, "mode": "modules"}
    >>> fast = billhook.compile(lstm, x[0], plan={**plan, "layers": {"": {"kernel": "sparse"}}})
    >>> _ = billhook.save(fast, "lstm.billhook.safetensors")
    >>> with torch.device("meta"):
    ...     lstm = torch.nn.LSTM(16, 16)
    >>> again = load_compiled("lstm.billhook.safetensors", lstm)
    >>> torch.equal(again(x[0])[0], fast(x[0])[0])
    True
    """
    why = f"a program was loaded from {os.fspath(path)}"
    with Reader(path) as file:
        with _readable(file.path):
            data, plan = read_text(file)
        plan = _for_this_machine(plan)
        if plan.precision == "int8" and plan.mode == "network":
            with _readable(file.path):
                read = read_int8_network(file, plan, data)
            opened = Int8Network(read, plan.layers, plan.isa)
            compiled = CompiledModel(opened, plan, CompileReport.of(plan, why), {})
            if takes_at_most(read, Limits.of(file.nbytes, 0).opening):
                _check_example(compiled, data, file.path)
            return compiled
        isa = 0 if plan.mode == "dense" else isa_of(plan)
        report = CompileReport.of(plan, why)
        if plan.mode != "network":
            program = _modules(file, plan, data, model, isa)
            compiled = CompiledModel(program, plan, report, data["architecture"])
            _check_example(compiled, data, file.path)
            return compiled
        with _readable(file.path):
            graph = read_network(file, plan, data)
            lengths = read_lengths(data, graph)
    # Only now that the file is let go of: both together would be the peak of the memory it takes.
    with _readable(path):
        sample = sum(math.prod(each.shape) for each in graph.inputs)
        limits = Limits.of(file.nbytes, 4 * sample)
        network = Network(graph, plan.layers, isa, limits=limits, lengths=lengths)
    compiled = CompiledModel(network, plan, report, {})
    if network.takes_at_most(limits.opening):  # what opening a file takes, the file alone pays for
        _check_example(compiled, data, path)
    return compiled


def _check_example(
    compiled: CompiledModel, data: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    """Compares the program with the example in its file; older files have none."""
    example = data.get("example")
    if example is None:
        return
    with _readable(path):
        check_example(compiled, example)
        compiled.remember(example["inputs"])


def _for_this_machine(plan: Plan) -> Plan:
    """The plan with this machine's kernels if it does not run those of the machine it is from."""
    if plan.mode == "dense" or not available():
        return plan
    return replace(plan, isa=set_for(plan.isa, plan.precision))


def _modules(
    file: Reader, plan: Plan, data: Mapping[str, Any], model: nn.Module | None, isa: int
) -> nn.Module:
    if model is None:
        raise ConfigurationError(
            f"{file.path} is of a model whose layers were replaced one by one, its code is not "
            'in the file: load_compiled(path, model), built under torch.device("meta")'
        )
    with _readable(file.path):
        if plan.precision == "int8":
            return open_int8_modules(file, plan, data["architecture"], model)
        return open_modules(file, plan, data["architecture"], model, isa)


def is_program(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of a compiled model, not of weights."""
    with Reader(path) as file:
        return TEXT in list(file)


# What reading a file that does not fit ends in.
_DEFECTS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever does not fit in a file is a defect of the file."""
    try:
        yield
    except FormatError:
        raise
    except _DEFECTS as error:
        raise FormatError(f"{os.fspath(path)}: the program cannot be read ({error})") from error
