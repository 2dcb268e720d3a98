"""Where a network's values lie: computed once, for whatever plan it then runs by, as plain data."""

from collections import defaultdict
from dataclasses import dataclass

from billhook.inference.graph import INPUT, Conv, Layer, Op
from billhook.inference.graph.ops import Shape, Site
from billhook.inference.graph.planes import PlaneLayout
from billhook.inference.kernels import RESULT, SOURCE, WORKSPACE, View
from billhook.inference.network.layout import Region, Workspace

__all__ = ["Placed", "place"]

VECTOR_PLANE = 1


@dataclass(frozen=True)
class Placed:
    """The places of a network's values.

    ``sites`` has one place for each operation, ``users`` the operations that read each value.
    ``source`` is the network's input as it lies, ``imported`` its copy in padded planes.
    ``layouts`` are those of all planes, ``size`` the floats of a workspace.
    """

    sites: tuple[Site, ...]
    users: dict[int, list[int]]
    source: View
    imported: View
    layouts: frozenset[PlaneLayout]
    size: int


def place(ops: list[Op], input_shape: Shape) -> Placed:
    """Places every value of a network.

    Values that an operation ties (a convolution of stride 1 its input and result, a concatenation
    what it joins) form a class with one pitch and one amount of padding. A value that a
    concatenation joins is computed in its place there.
    """
    placement = _Placement(ops, input_shape)
    source = View(SOURCE, 0, input_shape[1] * input_shape[2], input_shape[2])
    planes = [value for value in range(len(ops)) if placement.is_planes(value)]
    return Placed(
        sites=tuple(placement.site(index, source) for index in range(len(ops))),
        users=placement.users,
        source=source,
        imported=placement.view(INPUT) if placement.imports else source,
        layouts=frozenset(placement.layout(value) for value in planes),
        size=placement.size,
    )


class _Placement:
    def __init__(self, ops: list[Op], input_shape: Shape) -> None:
        self.ops = ops
        self.shapes = {INPUT: input_shape, **{i: op.shape for i, op in enumerate(ops)}}
        self.convs = [(i, op) for i, op in enumerate(ops) if isinstance(op, Conv)]
        self.imports = any(INPUT in conv.inputs and not conv.strided for _, conv in self.convs)
        self.users: dict[int, list[int]] = defaultdict(list)
        for index, op in enumerate(ops):
            for value in op.inputs:
                self.users[value].append(index)
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
        return value == INPUT or self.ops[value].is_planes

    def _aliased(self, value: int) -> bool:
        """Whether a value is the input of its operation as it lies."""
        if value == INPUT:
            return False
        op, is_last = self.ops[value], value == len(self.ops) - 1
        return op.is_alias(self.is_planes(op.inputs[0]), is_last)

    # What is asked of the result.

    def site(self, index: int, source: View) -> Site:
        op = self.ops[index]
        height, width = op.shape[1:] if op.is_planes else (0, 0)
        is_last, strided = index == len(self.ops) - 1, isinstance(op, Conv) and op.strided
        views = {v: source if v == INPUT else self.view(v) for v in op.inputs}
        return Site(
            inputs=tuple(views[v] for v in op.inputs),
            operands=tuple(
                self.view(v) if v == INPUT and self.imports else views[v] for v in op.inputs
            ),
            shapes=tuple(self.shapes[v] for v in op.inputs),
            planes=tuple(self.is_planes(v) for v in op.inputs),
            output=self.view(index),
            layout=self.layout(index) if op.is_planes else None,
            source=self._source_layout(index) if isinstance(op, Conv) else None,
            phases=self._phases_view(index) if strided else None,
            result=View(RESULT, 0, height * width, width) if is_last and op.is_planes else None,
            inside=tuple(self._home.get(v, (None, 0))[0] == index for v in op.inputs),
            aliased=self._aliased(index),
        )

    def view(self, value: int) -> View:
        """Where a value lies in the workspace; the network's result, if a vector, is outside."""
        if self.is_planes(value):
            layout = self.layout(value)
            return View(WORKSPACE, self._start(value) + layout.lead, layout.size, layout.pitch)
        if value == len(self.ops) - 1:
            return View(RESULT, 0, VECTOR_PLANE, 1)
        return View(WORKSPACE, self._start(value), VECTOR_PLANE, 1)

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
        if self._aliased(value):
            return self._start(self.ops[value].inputs[0])
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
                if value != INPUT and value not in self._home and op.inputs.count(value) == 1:
                    self._home[value] = index, channel
                channel += self.shapes[value][0]

    def _measure(self) -> None:
        """Each class's pitch, then the padding before and after its planes."""
        for value in (INPUT, *range(len(self.ops))):
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
        """First and last operation that need a value, which another may run."""
        born = 0 if value == INPUT else value
        dies = max([born, *self.users[value]])
        for user in self.users[value]:
            op = self.ops[user]
            if isinstance(op, Layer) and op.may_run_with_next():
                dies = max([dies, *self.users[user]])
            if self._home.get(value, (None, 0))[0] == user or self._aliased(user):
                dies = max(dies, self._lives(user)[1])
        return born, dies

    def _allocate(self) -> int:
        for value in (INPUT, *range(len(self.ops))):
            if value in self._home or self._aliased(value) or (value == INPUT and not self.imports):
                continue
            born, dies = self._lives(value)
            if not self.is_planes(value):
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
