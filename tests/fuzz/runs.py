"""A changed program: refused, or run as torch runs what it says, at other lengths too."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import billhook
from billhook.errors import BillhookError
from billhook.inference.graph.lengths import Lengths
from billhook.inference.graph.program import DTYPES

from . import runtime
from .reference import reference

__all__ = ["check"]

TOLERANCE = 1e-4
LARGEST = 2**18  # elements of an input that is tried


def check(path: Path, data: bytes) -> str:
    """ "refused" or "ran"; a program that opens must run, and as torch does, on any threads."""
    path.write_bytes(data)
    runtime.check(path)
    try:
        program = billhook.load_compiled(path)
    except BillhookError:
        return "refused"
    network: Any = program.program
    network = getattr(network, "network", network)
    graph = network.graph
    given = sum(torch.Size(each.shape).numel() for each in graph.inputs)
    if given > LARGEST or network.lowering.placed.size > 64 * LARGEST or graph.work > 2**28:
        return "too large to run"
    network.graph = _flat(graph)
    if not _runs(program, graph):
        return "refused"
    if network.lengths is not None:
        network.lengths = replace(network.lengths, longer=_flat(network.lengths.longer))
        for other in _other_lengths(network.graph, network.lengths):
            try:
                _runs(program, other)
            except BillhookError as error:  # there, what was opened may still not fit
                assert "cannot run sequences longer by" in str(error), error  # noqa: PT017
    return "ran"


def _flat(graph: Any) -> Any:
    """The same whose outputs are returned one after another."""
    return replace(graph, structure=list(range(len(graph.outputs))))


def _runs(program: Any, graph: Any) -> bool:
    """Whether a program runs its graph, or refuses an index; what it gives must be right."""
    inputs = _inputs(graph)
    torch.set_num_threads(1)
    try:
        once = pytree.tree_leaves(program(*inputs))
    except IndexError:
        return False  # an index beyond its table
    torch.set_num_threads(2)
    again = pytree.tree_leaves(program(*inputs))
    torch.set_num_threads(1)
    for first, second in zip(once, again, strict=True):
        assert torch.equal(first.view(torch.int32), second.view(torch.int32)), "bits of two threads"
    values = reference(graph, inputs)
    for output, y in zip(graph.outputs, once, strict=True):
        _compare(output, y, values[output.value])
    return True


def _other_lengths(graph: Any, lengths: Lengths) -> Iterator[Any]:
    """The graphs of some other lengths that are not too large to run, if there are any."""
    for more in (-4, -1, 1, 6, lengths.most):
        try:
            other = lengths.at(graph, more)
        except ValueError:
            continue
        shapes = [each.shape for each in other.inputs]
        same = shapes == [each.shape for each in graph.inputs]
        if same or min((size for shape in shapes for size in shape), default=1) < 1:
            continue
        if sum(map(math.prod, shapes)) > LARGEST or other.work > 2**26:
            continue
        yield other


def _inputs(graph: Any) -> list[torch.Tensor]:
    """Two samples of each input."""
    generator, made = torch.Generator().manual_seed(1), []
    for each in graph.inputs:
        shape = (2, *each.shape)
        x = torch.rand(shape, generator=generator) - 0.4
        if each.dtype != "F32":
            x = torch.randint(0, 2, shape, generator=generator).to(DTYPES[each.dtype])
        made.append(x.movedim(0, each.axis))
    return made


def _compare(output: Any, y: torch.Tensor, expected: torch.Tensor) -> None:
    wanted = output.of_batch(expected.float().reshape(2, *output.shape))
    assert y.shape == wanted.shape
    if bool(wanted.isfinite().all()) and float(wanted.abs().max()) < 1e20:
        size = float(torch.linalg.vector_norm(wanted.double()))
        distance = float(torch.linalg.vector_norm((y - wanted).double()))
        assert distance <= TOLERANCE * (size + 1), f"wrong by {distance} of {size}"
