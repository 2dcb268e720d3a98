"""Where a network's values lie: computed once, for whatever plan it then runs by, as plain data."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from billhook.inference.graph import Conv, Graph, Layer
from billhook.inference.graph.ops import Site
from billhook.inference.graph.planes import LINE, PlaneLayout, round_up
from billhook.inference.kernels import CONSTANTS, FIRST_INPUT, WORKSPACE, View
from billhook.inference.network.layout import Region, Workspace

__all__ = ["Placed", "place"]

VECTOR_PLANE = 1


@dataclass(frozen=True)
class Placed:
    """The places of a network's values.

    ``sites`` has one place for each operation, ``users`` the operations that read each value.
    ``imports`` has for each value outside of the workspace that convolutions may read in padded
    planes where it lies, and where its copy does. ``exports`` says where results that are planes
    are wanted. ``layouts`` are those of all planes, ``size`` the floats of a workspace,
    ``constants`` where each constant lies in their buffer and ``constant_size`` its floats.
    """

    sites: tuple[Site, ...]
    users: Mapping[int, list[int]]
    imports: Mapping[int, tuple[View, View]]
    exports: Mapping[int, View]
    layouts: frozenset[PlaneLayout]
    size: int
    constants: Mapping[int, int]
    constant_size: int


def place(graph: Graph) -> Placed:
    """Places every value of a network.

    Values that an operation ties (a convolution of stride 1 its input and result, a concatenation
    what it joins) form a class with one pitch and one amount of padding. A value that a
    concatenation joins is computed in its place there.
    """
    placement = _Placement(graph)
    planes = [
        v for v in range(len(graph.ops)) if placement.is_planes(v) and not placement.outside(v)
    ]
    return Placed(
        sites=tuple(placement.site(index) for index in range(len(graph.ops))),
        users=placement.users,
        imports={v: (placement.view(v), placement.copy_of(v)) for v in placement.imports},
        exports={v: view for v in planes if (view := placement.wanted(v)) is not None},
        layouts=frozenset(placement.layout(value) for value in planes),
        size=placement.size,
        constants=placement.constants,
        constant_size=placement.constant_size,
    )


class _Placement:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.ops, self.shapes = graph, graph.ops, graph.shapes
        self.convs = [(i, op) for i, op in enumerate(self.ops) if isinstance(op, Conv)]
        self.outputs = {output.value: k for k, output in enumerate(graph.outputs)}
        self.constants: dict[int, int] = {}
        self.constant_size = 0
        for index, data in graph.constants():
            self.constants[index] = self.constant_size
            self.constant_size += round_up(data.numel() + LINE, LINE)
        self.users: dict[int, list[int]] = defaultdict(list)
        for index, op in enumerate(self.ops):
            for value in op.inputs:
                self.users[value].append(index)
        self.imports = {
            value
            for _, conv in self.convs
            for value in conv.inputs
            if self.outside(value) and not conv.strided
        }
        self._parent: dict[int, int] = {}
        self._home: dict[int, tuple[int, int]] = {}  # value: concatenation, first channel there
        self._tie()
        self._pitch: dict[int, int] = defaultdict(int)
        self._lead: dict[int, int] = defaultdict(int)
        self._tail: dict[int, int] = defaultdict(int)
        self._measure()
        self._regions: dict[int, Region] = {}
        self._phases: dict[int, Region] = {}
        self.size = self._allocate()

    def is_planes(self, value: int) -> bool:
        return len(self.shapes[value]) == 3

    def outside(self, value: int) -> bool:
        """Whether a value lies outside of the workspace: an input, or a constant."""
        return value < 0 or value in self.constants

    def _alias(self, value: int) -> int | None:
        """The channel of its operation's input from which a value lies there as it is."""
        if self.outside(value) or value in self.outputs or len(self.ops[value].inputs) != 1:
            return None
        (source,) = self.ops[value].inputs
        if self.outside(source) and self.is_planes(source):
            return None  # it has no padding
        return self.ops[value].alias_from(self.shapes[source])

    def _aliased(self, value: int) -> bool:
        return self._alias(value) is not None

    # What is asked of the result.

    def site(self, index: int) -> Site:
        op = self.ops[index]
        strided = isinstance(op, Conv) and op.strided
        views = tuple(self.view(v) for v in op.inputs)
        return Site(
            inputs=views,
            operands=tuple(
                self.copy_of(v) if v in self.imports else view
                for v, view in zip(op.inputs, views, strict=True)
            ),
            shapes=tuple(self.shapes[v] for v in op.inputs),
            output=self.view(index),
            layout=self.layout(index) if op.is_planes else None,
            source=self._source_layout(index) if isinstance(op, Conv) else None,
            phases=self._phases_view(index) if strided else None,
            result=None if self.users[index] else self.wanted(index),
            inside=tuple(self._home.get(v, (None, 0))[0] == index for v in op.inputs),
            aliased=self._aliased(index),
            external=any(self.outside(v) for v in op.inputs),
        )

    def wanted(self, value: int) -> View | None:
        """Where a result that is planes is wanted; other results are made there."""
        if value not in self.outputs or not self.is_planes(value):
            return None
        _, height, width = self.shapes[value]
        return View(self._result(value), 0, height * width, width)

    def _result(self, value: int) -> int:
        return FIRST_INPUT + len(self.graph.inputs) + self.outputs[value]

    def view(self, value: int) -> View:
        """Where a value lies; an input or a constant as it is given, without padding."""
        plane, pitch = VECTOR_PLANE, 1
        if self.outside(value):
            if self.is_planes(value):
                _, height, width = self.shapes[value]
                plane, pitch = height * width, width
            if value < 0:
                return View(FIRST_INPUT - 1 - value, 0, plane, pitch)
            return View(CONSTANTS, self.constants[value], plane, pitch)
        channel = self._alias(value)
        if channel is not None:
            base = self.view(self.ops[value].inputs[0])
            return View(base.buffer, base.offset + channel * base.plane, base.plane, base.pitch)
        if self.is_planes(value):
            return self._in_planes(value, self._start(value))
        if value in self.outputs:
            return View(self._result(value), 0, plane, pitch)
        return View(WORKSPACE, self._start(value), plane, pitch)

    def copy_of(self, value: int) -> View:
        """The copy in padded planes of a value outside of the workspace."""
        return self._in_planes(value, self._regions[value].start)

    def _in_planes(self, value: int, start: int) -> View:
        layout = self.layout(value)
        return View(WORKSPACE, start + layout.lead, layout.size, layout.pitch)

    def layout(self, value: int) -> PlaneLayout:
        """The layout of a value's planes."""
        _, height, width = self.shapes[value]
        root = self._find(value)
        return PlaneLayout(height, width, self._pitch[root], self._lead[root], self._tail[root])

    def _source_layout(self, index: int) -> PlaneLayout:
        """The layout of the planes, or phases, that a convolution reads."""
        conv = self.ops[index]
        assert isinstance(conv, Conv)
        if not conv.strided:
            return self.layout(conv.inputs[0])
        height, width = conv.phase_size(self.shapes[conv.inputs[0]])
        pitch = self._pitch[self._find(index)]
        return PlaneLayout(height, width, pitch, *conv.margins(height, pitch))

    def _phases_view(self, index: int) -> View:
        layout = self._source_layout(index)
        start = self._phases[index].start + layout.lead
        return View(WORKSPACE, start, layout.size, layout.pitch)

    def _start(self, value: int) -> int:
        """The first float of a value's region in the workspace."""
        if value in self._home:
            concat, channel = self._home[value]
            return self._start(concat) + channel * self.layout(value).size
        return self._regions[value].start

    # Classes of values.

    def _find(self, value: int) -> int:
        while self._parent.get(value, value) != value:
            value = self._parent[value]
        return value

    def _tie(self) -> None:
        for index, op in enumerate(self.ops):
            for value in op.tied:
                self._parent[self._find(value)] = self._find(index)
            channel = 0
            for value in op.inputs if op.joins else ():
                taken = value in self._home or op.inputs.count(value) > 1
                if not taken and not self.outside(value) and not self._aliased(value):
                    self._home[value] = index, channel
                channel += self.shapes[value][0]

    def _measure(self) -> None:
        """Each class's pitch, then the padding before and after its planes."""
        for value in self.shapes:
            if self.is_planes(value):
                root = self._find(value)
                self._pitch[root] = max(self._pitch[root], self.shapes[value][2])
        for index, conv in self.convs:
            root = self._find(index)
            need = conv.pitch_for(self.shapes[conv.inputs[0]])
            self._pitch[root] = max(self._pitch[root], need)
        for index, conv in self.convs:
            if not conv.strided:
                root = self._find(index)
                height = self.shapes[conv.inputs[0]][1]
                lead, tail = conv.margins(height, self._pitch[root])
                self._lead[root] = max(self._lead[root], lead)
                self._tail[root] = max(self._tail[root], tail)

    # Places.

    def _lives(self, value: int) -> tuple[int, int]:
        """First and last operation that need a value, which another may run; a result is brought
        out after the last."""
        born = max(value, 0) if value not in self.imports else 0
        end = [len(self.ops)] if value in self.outputs else []
        dies = max([born, *self.users[value], *end])
        for user in self.users[value]:
            op = self.ops[user]
            if isinstance(op, Layer) and op.may_run_with_next():
                dies = max([dies, *self.users[user]])
            if self._home.get(value, (None, 0))[0] == user or self._aliased(user):
                dies = max(dies, self._lives(user)[1])
        return born, dies

    def _allocate(self) -> int:
        for value in self.shapes:
            absent = self.outside(value) and value not in self.imports
            if absent or value in self._home or self._aliased(value):
                continue
            born, dies = self._lives(value)
            if not self.is_planes(value):
                if value not in self.outputs:
                    features = self.shapes[value][0]
                    layout = PlaneLayout(1, features, features, 0, 0)
                    self._regions[value] = Region(layout, 1, born, dies)
                continue
            # What lies inside may be computed long before the values are joined, and read after.
            inner = [self._lives(v) for v in self._home if self._within(v, value)]
            born = min([born, *(first for first, _ in inner)])
            dies = max([dies, *(last for _, last in inner)])
            self._regions[value] = Region(self.layout(value), self.shapes[value][0], born, dies)
        for index, conv in self.convs:
            if conv.strided:
                phases = conv.stride[0] * conv.stride[1] * self.shapes[conv.inputs[0]][0]
                dies = max([index, *self.users[index]]) if conv.may_run_with_next() else index
                self._phases[index] = Region(self._source_layout(index), phases, index, dies)
        space = Workspace()
        space.place([*self._regions.values(), *self._phases.values()])
        return space.size

    def _within(self, value: int, concat: int) -> bool:
        """Whether a value lies, at whatever depth, in the region of a concatenation."""
        while value in self._home:
            value = self._home[value][0]
            if value == concat:
                return True
        return False
