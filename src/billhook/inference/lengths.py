"""Models that take inputs of other lengths than the example's."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from billhook.inference.graph import Graph, UnsupportedError
from billhook.inference.graph.capture.export import Captured
from billhook.inference.graph.lengths import Lengths
from billhook.inference.graph.soundness import check_graph
from billhook.torch_private import map_leaves

__all__ = ["Varying", "for_every_length", "other_lengths"]

MAPS = 3  # dimensions of a sample of images, whose size stays
LONGEST = 1024  # what a program for every length takes at least
Inputs = tuple[Any, ...]


def varying_sizes(model: nn.Module, graph: Graph, inputs: Inputs) -> list[int]:
    """The sizes of dimensions of sequences that the model takes longer by one.

    All dimensions of one size grow together, in every input: tokens and their mask.
    """
    samples = [each.shape for each in graph.inputs if len(each.shape) < MAPS]
    sizes = sorted({size for shape in samples for size in shape})
    return [size for size in sizes if _runs(model, resized(inputs, size, size + 1))]


@dataclass(frozen=True)
class Varying:
    """The ``size`` of the dimensions that have another one in longer sequences, and the rule."""

    size: int
    rule: Lengths


def for_every_length(
    model: nn.Module,
    capture: Callable[[Inputs], Captured],
    captured: Captured,
    inputs: Inputs,
) -> tuple[Captured, Varying | None]:
    """The graph for the example's length, and what those of other lengths follow from, if the
    model takes others.

    Raises:
        UnsupportedError: It does, and they do not follow from one.
    """
    sizes = varying_sizes(model, captured[0], inputs)
    if not sizes:
        return captured, None
    try:
        if len(sizes) > 1:
            raise UnsupportedError("there are sequences of several lengths")
        captured, rule = _rule(capture, captured, inputs, sizes[0])
    except UnsupportedError as error:
        raise UnsupportedError(
            f"the model takes other lengths and one program the example's alone, because {error} "
            "(standalone=True makes one all the same)"
        ) from error
    return captured, Varying(sizes[0], rule)


def _rule(
    capture: Callable[[Inputs], Captured], captured: Captured, inputs: Inputs, size: int
) -> tuple[Captured, Lengths]:
    """A sequence of one is captured as a longer one: without its dimension there would be nothing
    to tell where the others have theirs."""
    if size > 1:
        longer, _ = capture(resized(inputs, size, size + 1))
        return captured, Lengths.of(captured[0], longer, longest(size) - size)
    two, three = (capture(resized(inputs, 1, length))[0] for length in (2, 3))
    one = Lengths.of(two, three, 0).at(two, -1)
    try:
        check_graph(one)
    except ValueError as error:
        raise UnsupportedError(f"one step does not follow from several: {error}") from error
    return (one, captured[1]), Lengths.of(one, two, longest(1) - 1)


def longest(size: int) -> int:
    """The longest sequence of a program whose example has this length: the model is tried on it.

    A model may do something else with long sequences (cut them, or take another branch), and
    nothing in a graph of shorter ones shows that.
    """
    return max(LONGEST, 4 * size)


def other_lengths(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Inputs of other lengths, the shortest and the longest among them."""
    for length in sorted({1, size + 2, 2 * size + 1, longest(size)} - {size}):
        yield resized(inputs, size, length)


def resized(inputs: Inputs, size: int, length: int) -> Inputs:
    """The inputs with their dimensions of this size of that length; what is new repeats the rest.

    >>> resized((torch.zeros(2, 3),), 3, 5)[0].shape
    torch.Size([2, 5])
    """
    made: Inputs = map_leaves(partial(_resized, size, length), inputs)
    return made


def _resized(size: int, length: int, value: Any) -> Any:
    if not torch.is_tensor(value):
        return value
    for dim in range(value.dim()):
        if value.shape[dim] == size:
            places = torch.arange(length) % size
            value = value.index_select(dim, places)
    return value


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    with suppress(Exception):  # whatever a model raises that is given what it does not take
        model(*inputs)
        return True
    return False
