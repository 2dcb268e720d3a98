"""What an operation of a network program is: a class that knows its result, its layout, its steps.

Each kind of operation is a subclass, in a file of its own beside this one. It says which shape
follows from what it reads, what its values must share in memory, which kernels may run it, and how
it is lowered to the steps of one sample.
"""

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch

from billhook.inference.graph.planes import PlaneLayout
from billhook.inference.kernels import ACTIVATIONS, Array, Step, View, pointer
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import SparseWeight
from billhook.inference.weights.lanes import LaneRows
from billhook.inference.weights.panels import BlockedRows, SparseRows

__all__ = [
    "INPUT",
    "NO_VIEW",
    "Layer",
    "Op",
    "Packed",
    "Packings",
    "Plain",
    "Shape",
    "Site",
    "Target",
    "Unbound",
    "UnsupportedError",
    "is_count",
    "is_number",
    "only",
    "pixels_of",
    "planes_step",
    "require",
    "step_between",
    "steps_of",
]

INPUT = -1  # the value number of the first input, input k is -1 - k; operation i makes value i
NO_VIEW = View(-1, 0, 0, 0)

Shape = tuple[int, ...]
Packed = BlockedRows | SparseRows | LaneRows
Packings = dict[Hashable, Packed]
P = TypeVar("P", BlockedRows, SparseRows, LaneRows)
Whole = TypeVar("Whole", BlockedRows, LaneRows)


class UnsupportedError(Exception):
    """The network has an operation that the network plan does not know; the message says which."""


@dataclass(frozen=True)
class Site:
    """Where an operation finds its inputs and leaves its result, as plain data.

    ``inputs`` are the values as they lie, in planes or as vectors; ``operands`` the same with their
    padding, which an ``external`` value (an input of the network, a constant) has only in its copy
    in the workspace. ``layout`` is the result's, None for a vector. ``source`` is the layout of
    what a convolution reads: its input, or the phases at ``phases`` that a strided one splits its
    input into first. ``result`` is where the network's result is wanted, if this operation makes it
    as planes that nothing else reads. ``inside`` says which inputs were computed where this
    operation joins them, ``aliased`` that it need not do anything.
    """

    inputs: tuple[View, ...]
    operands: tuple[View, ...]
    shapes: tuple[Shape, ...]
    output: View
    layout: PlaneLayout | None
    source: PlaneLayout | None = None
    phases: View | None = None
    result: View | None = None
    inside: tuple[bool, ...] = ()
    aliased: bool = False
    external: bool = False


class Target:
    """Holds what steps point to, for as long as they run: packed weights, masks, offsets.

    Args:
        isa: The instruction set, a row of the library's table.
        packings: What was packed before for other sizes of the same network, and takes what is
            packed now.
    """

    def __init__(self, isa: int, packings: Packings | None = None) -> None:
        self.isa = isa
        self.packings: Packings = {} if packings is None else packings
        self.packed: list[Packed] = []
        self._arrays: dict[Hashable, Any] = {}

    def pack(self, key: Hashable, make: Callable[[], P]) -> P:
        """Packed weights that do not depend on the size of the input: packed once."""
        rows: Any = self.packings.get(key)
        if rows is None:
            rows = self.packings[key] = make()
        return self.hold(rows)  # type: ignore[no-any-return]

    def hold(self, rows: P) -> P:
        """Keeps packed weights, and returns them."""
        self.packed.append(rows)
        return rows

    def bind(self, step: Step, field: str, make: Callable[[], Packed]) -> None:
        """Gives a step its packed weights."""
        setattr(step, field, make().struct)

    def point(self, step: Step, field: str, make: Callable[[], Array | None]) -> None:
        """Gives a step an array."""
        setattr(step, field, pointer(make()))

    def array(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """An array that steps point to, made once."""
        if key not in self._arrays:
            self._arrays[key] = make()
        return self._arrays[key]


class Unbound(Target):
    """For steps that are only described: they point to nothing, and no weight is packed."""

    def __init__(self) -> None:
        super().__init__(0)

    def bind(self, step: Step, field: str, make: Callable[[], Packed]) -> None:
        """Nothing."""

    def point(self, step: Step, field: str, make: Callable[[], Array | None]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Op:
    """One operation. ``shape`` is one sample's result: (C, H, W), or (F,) for a vector."""

    name: str
    inputs: tuple[int, ...]
    shape: Shape
    activation: str = "none"

    type_name: ClassVar[str]
    """What files call it."""
    activations: ClassVar[tuple[str, ...]] = ("none",)
    """Those that may be part of it."""
    joins: ClassVar[bool] = False
    """Whether its inputs may be computed where their concatenation lies."""
    nests: ClassVar[bool] = False
    """Whether where its values lie may follow from where another's do."""

    def result_shape(self, sources: Sequence[Shape]) -> Shape:
        """The shape that follows from the settings and from what is read.

        Raises:
            ValueError: The operation cannot read that.
        """
        raise NotImplementedError

    @property
    def is_planes(self) -> bool:
        """Whether the result lies in padded planes; other results are vectors."""
        return len(self.shape) == 3

    @property
    def tied(self) -> tuple[int, ...]:
        """The inputs whose planes have the pitch and the padding of the result's."""
        return ()

    @property
    def data(self) -> torch.Tensor | None:
        """The numbers of a constant, which no step makes."""
        return None

    def alias_from(self, _source: Shape, /) -> int | None:
        """Where the result lies in the input as it is: its first channel; None if it is made."""
        return None

    def work(self, sources: Sequence[Shape]) -> int:
        """Floats that one sample makes it read, zeros of a weight counted as well."""
        return math.prod(self.shape) + sum(math.prod(source) for source in sources)


@dataclass(frozen=True)
class Plain(Op):
    """An operation without a weight, which always runs alike."""

    def steps(self, site: Site) -> list[Step]:
        """The steps that run it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Layer(Op):
    """An operation with a weight, which a plan's choice says how to run."""

    weight: torch.Tensor | SparseWeight = field(default_factory=lambda: torch.empty(0))
    bias: torch.Tensor | None = None

    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS
    kind: ClassVar[str]
    """What reports call it."""

    @property
    def dense_weight(self) -> torch.Tensor:
        """The weight of a layer that was not packed."""
        assert isinstance(self.weight, torch.Tensor), f"{self.name} was packed"
        return self.weight

    def arrays(self) -> list[Array]:
        """The memory that its weight takes beside what has been packed of it."""
        if isinstance(self.weight, SparseWeight):
            return self.weight.arrays()
        return [self.weight.detach().numpy()]

    def let_go(self, packed: Whole) -> Whole:
        """What has been packed of all nonzeros, in which alone they are held from now on."""
        if isinstance(self.weight, SparseWeight):
            self.weight.held = packed
        return packed

    @property
    def positions(self) -> int:
        """How often one sample uses each weight."""
        return 1

    def note(self, index: int) -> dict[str, Any]:
        """Its tensors in a file, as operation ``index`` of a network, and its activation."""
        names = {"weight": f"{index}.weight"} | (
            {"bias": f"{index}.bias"} if self.bias is not None else {}
        )
        return names | ({"activation": self.activation} if self.activation != "none" else {})

    def kernels_for(self, _after: Op | None = None, /) -> tuple[str, ...]:
        """The kernels that may run it; a plan chooses one.

        ``after`` is the operation that alone reads the result, if only one does.
        """
        raise NotImplementedError

    def may_run_with_next(self) -> bool:
        """Whether the operation after it may run it, so that what it reads must live as long."""
        return False

    def imports(self, _site: Site, _choice: Choice, /) -> bool:
        """Whether it reads the network's input as padded planes."""
        return False

    def writes_result(self, _site: Site, _choice: Choice, /) -> bool:
        """Whether its planes come out where the network's result is wanted."""
        return False

    def lower(self, index: int, site: Site, choice: Choice, target: Target) -> list[Step]:
        """The steps that run it, as operation ``index`` of a network."""
        raise NotImplementedError

    def work(self, _: Sequence[Shape]) -> int:
        return math.prod(self.weight.shape)

    def dense_form(self, source: Shape) -> Callable[[], object]:
        """torch's own call on a random sample, for comparison."""
        raise NotImplementedError


def require(holds: bool, what: str) -> None:
    """Raises ValueError unless it holds."""
    if not holds:
        raise ValueError(what)


def only(sources: Sequence[Shape], dimensions: int) -> Shape:
    """The shape of the one value that is read."""
    require(len(sources) == 1 and len(sources[0]) == dimensions, f"cannot read {list(sources)}")
    return sources[0]


def pixels_of(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width; a vector is one row.

    >>> pixels_of((8,)), pixels_of((4, 2, 3))
    ((1, 1, 8), (4, 2, 3))
    """
    if len(shape) == 1:
        return 1, 1, shape[0]
    channels, height, width = shape
    return channels, height, width


def steps_of(view: View, shape: Shape) -> tuple[int, ...]:
    """Floats from one element to the next along each axis of a value."""
    return (1,) if len(shape) == 1 else (view.plane, view.pitch, 1)


def step_between(op: int, x: View, source: Shape, y: View, shape: Shape) -> Step:
    """A step from a value of the shape ``source`` at x to one of ``shape`` at y, whose other
    settings are zero."""
    channels, in_height, in_width = pixels_of(source)
    _, height, width = pixels_of(shape)
    return Step(
        op=op,
        x=x,
        y=y,
        addend=NO_VIEW,
        extra=NO_VIEW,
        mask=NO_VIEW,
        channels=channels,
        in_height=in_height,
        in_width=in_width,
        height=height,
        width=width,
    )


def planes_step(op: int, site: Site, shape: Shape) -> Step:
    """The same from an operation's first input to its result of this shape."""
    if not site.inputs:
        return step_between(op, NO_VIEW, shape, site.output, shape)
    return step_between(op, site.inputs[0], site.shapes[0], site.output, shape)


def is_number(*numbers: object) -> bool:
    """Whether all are numbers that fp64 holds, infinite ones too; NaN is not.

    A file may hold whole numbers of any length, for which ``math.isnan`` raises OverflowError.

    >>> is_number(1, -0.5, math.inf), is_number(math.nan), is_number(10**400), is_number(True)
    (True, False, False, False)
    """
    most = sys.float_info.max
    return all(
        (type(n) is int and -most <= n <= most) or (type(n) is float and not math.isnan(n))
        for n in numbers
    )


def is_count(*numbers: object, least: int = 1, most: int = 2**40) -> bool:
    """Whether all are whole numbers from ``least`` to ``most``."""
    return all(type(n) is int and least <= n <= most for n in numbers)
