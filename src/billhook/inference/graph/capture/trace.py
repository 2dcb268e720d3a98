"""The state of a capture: the operations so far, and what is known of each node of the graph."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.capture.atoms import Atom, Atoms, atoms_of, expand, pair, size_of
from billhook.inference.graph.constant import Constant
from billhook.inference.graph.maps import Flatten
from billhook.inference.graph.ops import Op, Shape, UnsupportedError
from billhook.inference.graph.rearrange import Pad, Rearrange

__all__ = ["Arguments", "Trace", "Value", "constant", "handlers", "handles", "operator_of"]

Arguments = dict[str, Any]
Padding = tuple[int, int, int, int]
NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that the model computes, or a ``constant`` of it.

    ``dims`` are torch's dimensions. Value ``number`` has the tensor's numbers along ``axes``: three
    of maps, one of a vector; atoms of ``dims`` that are not there are repeated. ``padding`` (top,
    left, bottom, right) are zeros still to be put around the last two dimensions.
    """

    dims: tuple[Atoms, ...]
    number: int = 0
    axes: tuple[Atoms, ...] = ()
    constant: torch.Tensor | None = None
    padding: Padding = NO_PADDING
    name: str = field(default="", compare=False)

    @property
    def atoms(self) -> Atoms:
        """All atoms of the dimensions, the slowest first."""
        return expand(atom for dim in self.dims for atom in dim)

    @property
    def sizes(self) -> Shape:
        return tuple(size_of(dim) for dim in self.dims)

    def is_same(self, other: "Value") -> bool:
        """Whether both have the numbers of one operation."""
        return self.constant is None and self.number == other.number


Handler = Callable[["Trace", fx.Node, Arguments], Any]
handlers: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Notes which operators of torch a function turns into operations."""

    def note(handler: Handler) -> Handler:
        handlers.update(dict.fromkeys(names, handler))
        return handler

    return note


def operator_of(node: fx.Node) -> str:
    """The name of the operator that a node calls, in place or not."""
    return str(node.target).split(".")[1].rstrip("_")


class Trace:
    """The operations of a graph, made one after another.

    Args:
        batch: The atom of the samples, which no operation sees.
    """

    def __init__(self, batch: Atom) -> None:
        self.batch = batch
        self.ops: list[Op] = []
        self.values: dict[fx.Node, Any] = {}
        self.names_taken: set[str] = set()
        self._copies: dict[Any, int] = {}

    # Operations.

    def add(self, op: Op) -> int:
        """The number of a new operation's value; one that has its name already leaves it
        ``name#2`` and so on."""
        name, uses = op.name, 1
        while name in self.names_taken:
            uses += 1
            name = f"{op.name}#{uses}"
        self.names_taken.add(name)
        self.ops.append(replace(op, name=name))
        return len(self.ops) - 1

    def emit(self, op: Op, axes: Sequence[Atoms], dims: Iterable[Atoms]) -> Value:
        """A new operation's value."""
        return Value(tuple(dims), self.add(op), tuple(axes))

    # What is read.

    def value(self, node: Any) -> Value:
        """What is known of a tensor that an operator reads; padding is applied."""
        given = self.values.get(node) if isinstance(node, fx.Node) else node
        if isinstance(given, torch.Tensor):
            given = constant(given)
        if isinstance(given, int | float | bool):
            given = constant(torch.tensor(float(given)))
        if not isinstance(given, Value):
            raise UnsupportedError(f"{node} is neither an input nor computed from one")
        return given if given.padding == NO_PADDING else self.padded(given)

    def padded(self, value: Value, fill: float = 0.0) -> Value:
        """The value with its padding around it."""
        rows = len(value.dims) - 2
        top, left, bottom, right = value.padding
        plain = replace(value, padding=NO_PADDING)
        return self.framed(plain, {rows: (top, bottom), rows + 1: (left, right)}, fill)

    def framed(self, value: Value, frame: Mapping[int, tuple[int, int]], fill: float) -> Value:
        """A value with elements before and after some of its dimensions."""
        dims = list(value.dims)
        inner = [expand(dims[d]) for d in frame]
        axes = [expand(axis) for axis in value.axes]
        if value.constant is not None or any(atoms and atoms not in axes for atoms in inner):
            axes = list(self.default_axes(value))
        number = self.arrange(value, axes)
        before, made = [0] * len(axes), [size_of(axis) for axis in axes]
        for (d, (first, last)), atoms in zip(frame.items(), inner, strict=True):
            free = [a for a, axis in enumerate(axes) if not axis]
            place = axes.index(atoms) if atoms in axes else (free or [-1])[0]
            if (atoms and axes.count(atoms) != 1) or place < 0:
                raise UnsupportedError("padding of a dimension that has no axis of its own")
            before[place] = first
            made[place] += first + last
            dims[d] = atoms_of(made[place])
            axes[place] = dims[d]
        op = Pad("pad", (number,), tuple(made), before=tuple(before), value=fill)
        return self.emit(op, axes, dims)

    def without_batch(self, dim: Atoms) -> Atoms:
        """A dimension's atoms; the samples must not be among them."""
        atoms = expand(dim)
        if self.batch in atoms:
            raise UnsupportedError("an operation over the samples of a batch")
        return atoms

    def features(self, value: Value) -> Atoms:
        """All atoms but the samples'."""
        return tuple(atom for atom in value.atoms if atom is not self.batch)

    def default_axes(self, value: Value) -> tuple[Atoms, ...]:
        """Maps of a tensor's dimensions: the first, what lies between, the last."""
        dims = [d for d in (expand(dim) for dim in value.dims) if d != (self.batch,)]
        if any(self.batch in dim for dim in dims):
            dims = [tuple(a for a in dim if a is not self.batch) for dim in dims]
        if len(dims) < 2:
            return (dims[0] if dims else (), (), ())
        if len(dims) == 2:
            return (dims[0], (), dims[1])
        return (tuple(a for dim in dims[:-2] for a in dim), dims[-2], dims[-1])

    def arrange(self, value: Value, axes: Sequence[Atoms]) -> int:
        """The number of a value with the tensor's numbers along these axes, copied if they lie
        otherwise; atoms that the tensor has not are repeated."""
        wanted = tuple(expand(axis) for axis in axes)
        if value.constant is not None:
            return self._constant(value, wanted)
        stored = tuple(expand(axis) for axis in value.axes)
        if stored == wanted:
            return value.number
        key = (value.number, wanted)
        if key not in self._copies:
            op = _copy(value.number, stored, wanted)
            self._copies[key] = self.add(op)
        return self._copies[key]

    def _constant(self, value: Value, axes: tuple[Atoms, ...]) -> int:
        assert value.constant is not None
        own, wanted = value.atoms, [atom for axis in axes for atom in axis]
        if self.batch in own or not set(own) <= set(wanted):
            raise UnsupportedError("a constant that differs from sample to sample")
        tensor = value.constant.reshape([atom.size for atom in own])
        order = [own.index(atom) for atom in wanted if atom in own]
        tensor = tensor.permute(order)
        for place, atom in enumerate(wanted):
            if atom not in own:
                tensor = tensor.unsqueeze(place).expand(
                    *tensor.shape[:place], atom.size, *tensor.shape[place:]
                )
        tensor = tensor.reshape([size_of(axis) for axis in axes]).contiguous().float()
        key = (tuple(tensor.shape), hashlib.sha256(tensor.numpy().data).digest())
        if key not in self._copies:
            op = Constant("constant", (), tuple(tensor.shape), tensor=tensor.clone())
            self._copies[key] = self.add(op)
        return self._copies[key]

    # Weights, and what comes after them.

    def weight(self, node: Any) -> torch.Tensor | None:
        """A weight, None for None."""
        if node is None:
            return None
        value = self.values.get(node)
        if not isinstance(value, Value) or value.constant is None:
            raise UnsupportedError(f"the weight {node} is computed from the input")
        return value.constant

    def layer_name(self, node: fx.Node, weight: fx.Node) -> str:
        """The name of the module whose weight a node reads."""
        own = self.values[weight].name
        if own:
            return str(own).removesuffix(".weight")
        stack = node.meta.get("nn_module_stack") or {}
        return next((path for path, _ in reversed(stack.values()) if path), node.name)

    def only_reader(self, node: fx.Node, kinds: tuple[type[Op], ...]) -> int | None:
        """The value's number if its operation can absorb what follows: nothing else reads the
        value, under whatever name, and it has no activation yet."""
        value = self.value(node)
        number = value.number
        if value.constant is not None or number < 0 or not isinstance(self.ops[number], kinds):
            return None
        names = [n for n, v in self.values.items() if isinstance(v, Value) and v.is_same(value)]
        readers = {user for name in names for user in name.users} - set(names)
        return number if len(readers) == 1 and self.ops[number].activation == "none" else None

    # Two tensors.

    def aligned(self, value: Value, dims: Sequence[Atoms]) -> dict[Atom, Atom]:
        """For the dimensions of a larger tensor, which of the value's atoms stands for each of
        theirs; none where the value is broadcast."""
        found: dict[Atom, Atom] = {}
        own = value.dims
        for theirs, mine in zip(dims[len(dims) - len(own) :], own, strict=True):
            if expand(mine) and expand(theirs):
                found |= pair(theirs, mine)
        return found

    def as_operand(self, value: Value, dims: Sequence[Atoms], axes: Sequence[Atoms]) -> int:
        """The number of a value beside a larger one of these dimensions and axes, along which it is
        as long or has one element."""
        value, wanted = self.beside(value, dims, axes)
        if len(axes) == 3 and wanted[1:] == [(), ()]:
            wanted = wanted[:1]  # a number for each channel
        return self.arrange(value, wanted)

    def beside(
        self, value: Value, dims: Sequence[Atoms], axes: Sequence[Atoms]
    ) -> tuple[Value, list[Atoms]]:
        """The value, of one sample, and its own axes; () for those along which it is broadcast."""
        value = self.one_sample(value, dims)
        found = self.aligned(value, dims)
        stored = {a for axis in value.axes for a in expand(axis)}
        known = stored if value.constant is None else set(value.atoms)
        wanted = []
        for axis in axes:
            mine = tuple(found.get(atom, Atom(atom.size)) for atom in expand(axis))
            wanted.append(mine if any(atom in known for atom in mine) else ())
        return value, wanted

    def one_sample(self, value: Value, dims: Sequence[Atoms]) -> Value:
        """A constant of several equal samples as one."""
        if value.constant is None:
            return value
        made, tensor = list(value.dims), value.constant
        for d, theirs in enumerate(dims[len(dims) - len(made) :]):
            if expand(theirs) == (self.batch,) and expand(made[d]):
                first = tensor.reshape(value.sizes).narrow(d, 0, 1)
                if not torch.equal(first.expand(value.sizes), tensor.reshape(value.sizes)):
                    raise UnsupportedError("a constant that differs from sample to sample")
                made[d], tensor = (), first
                value = replace(value, dims=tuple(made), constant=tensor)
        return value


def constant(tensor: torch.Tensor, name: str = "") -> Value:
    """A value that the model has, and does not compute."""
    dims = tuple(atoms_of(size) for size in tensor.shape)
    return Value(dims, constant=tensor.detach(), name=name)


def _copy(number: int, stored: tuple[Atoms, ...], wanted: tuple[Atoms, ...]) -> Op:
    shape = tuple(size_of(axis) for axis in wanted)
    in_order = [a for axis in stored for a in axis] == [a for axis in wanted for a in axis]
    if in_order and len(shape) == 1:
        return Flatten("flatten", (number,), shape)
    places = _places(stored)
    target = _places(wanted)
    atoms = [atom for axis in wanted for atom in axis]
    if not set(places) <= set(target):
        raise UnsupportedError("a copy that leaves elements out")
    rows = [(a.size, *places.get(a, (0, 0)), *target[a]) for a in atoms]
    sizes, from_axes, from_steps, to_axes, to_steps = zip(*rows, strict=True) if rows else [()] * 5
    return Rearrange(
        "rearrange",
        (number,),
        shape,
        sizes=sizes,
        from_axes=from_axes,
        from_steps=from_steps,
        to_axes=to_axes,
        to_steps=to_steps,
        start=(0,) * len(stored),
    )


def _places(axes: tuple[Atoms, ...]) -> dict[Atom, tuple[int, int]]:
    """Of each atom its axis, and the step along it."""
    return {
        atom: (a, math.prod(later.size for later in axis[i + 1 :]))
        for a, axis in enumerate(axes)
        for i, atom in enumerate(axis)
    }
