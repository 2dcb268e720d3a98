"""One graph for every length of its sequences: its whole numbers are linear functions of it."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from billhook.inference.graph.ops import Op, UnsupportedError
from billhook.inference.graph.program import Graph
from billhook.inference.weights.csr import SparseWeight

__all__ = ["TENSORS", "Lengths"]

TENSORS = ("weight", "bias", "tensor")  # the settings of operations that are numbers of the model


@dataclass(frozen=True)
class Lengths:
    """``longer`` is the graph for sequences longer by one; it needs no weights. ``most`` is by how
    much they may be longer than the example's."""

    longer: Graph
    most: int

    @classmethod
    def of(cls, graph: Graph, longer: Graph, most: int) -> "Lengths":
        """
        Raises:
            UnsupportedError: The two differ by more than sizes, so other lengths do not follow.
        """
        try:
            _between(graph, longer, 1)
        except ValueError as error:
            raise UnsupportedError(f"its sizes do not follow from the length: {error}") from error
        pairs = zip(graph.ops, longer.ops, strict=True)
        if not all(_same_numbers(*pair) for pair in pairs):
            raise UnsupportedError("it has numbers that depend on the length")
        bare = [replace(op, **_without_tensors(op)) for op in longer.ops]
        return cls(longer.with_ops(bare), most)

    def at(self, graph: Graph, more: int) -> Graph:
        """The graph for sequences longer by ``more``, with the weights of ``graph``.

        Raises:
            ValueError: ``longer`` does not fit to it, or that is too long.
        """
        if more > self.most:
            raise ValueError(
                f"it was compared with the model up to {self.most} more; compile it for a longer "
                "example"
            )
        made: Graph = _between(graph, self.longer, more)
        return made

    def more(self, graph: Graph, shapes: list[tuple[int, ...]]) -> int:
        """How much longer inputs of these shapes of a sample are; 0 where none tells."""
        for own, longer, given in zip(graph.inputs, self.longer.inputs, shapes, strict=False):
            for a, b, n in zip(own.shape, longer.shape, given, strict=False):
                if a != b and (n - a) % (b - a) == 0:
                    return (n - a) // (b - a)
        return 0


def _without_tensors(op: Op) -> dict[str, Any]:
    empty = {"weight": torch.empty(0), "tensor": torch.empty(0), "bias": None}
    return {f.name: empty[f.name] for f in fields(op) if f.name in TENSORS}


def _same_numbers(a: Op, b: Op) -> bool:
    """Whether two operations have equal weights."""
    mine, theirs = ([getattr(op, name, None) for name in TENSORS] for op in (a, b))
    return all(
        torch.equal(x, y) if torch.is_tensor(x) and torch.is_tensor(y) else x is y
        for x, y in zip(mine, theirs, strict=True)
    )


def _between(a: Any, b: Any, n: int) -> Any:
    """a + n (b - a) of all whole numbers within; what else they have must be equal."""
    if type(a) is int and type(b) is int:
        return a + n * (b - a)
    if type(a) is not type(b):
        raise ValueError(f"{a!r} and {b!r}")
    if isinstance(a, tuple) and len(a) == len(b):
        return tuple(_between(x, y, n) for x, y in zip(a, b, strict=True))
    if is_dataclass(a) and not isinstance(a, type | SparseWeight):
        known = [f.name for f in fields(a) if f.name not in TENSORS]
        return replace(a, **{k: _between(getattr(a, k), getattr(b, k), n) for k in known})
    if a != b:
        raise ValueError(f"{a!r} and {b!r}")
    return a
