"""Layouts and places of a network's values: which share a pitch, how much padding, and where."""

from collections import defaultdict

from billhook.inference.graph import INPUT, Conv, Linear, Op, Other
from billhook.inference.kernels import LANES
from billhook.inference.network.layout import LINE, PlaneLayout, Region, Workspace, round_up
from billhook.inference.network.taps import reach, strided

__all__ = ["Placement"]


class Placement:
    """Places every value of a network, for whatever plan it then runs by.

    Values tied by a convolution of stride 1 or by a concatenation form a class with one pitch and
    one amount of padding. A value that a concatenation joins is computed in its place there.
    """

    def __init__(self, ops: list[Op], input_shape: tuple[int, int, int]) -> None:
        self.ops, self.input_shape = ops, input_shape
        self.users = defaultdict(list)
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

    # Questions about values.

    def shape(self, value: int) -> tuple[int, ...]:
        return self.input_shape if value == INPUT else self.ops[value].shape

    def is_planes(self, value: int) -> bool:
        """Whether a value lies in padded planes; the others are vectors."""
        if value == INPUT:
            return True
        op = self.ops[value]
        return not isinstance(op, Linear) and not (
            isinstance(op, Other) and op.kind in ("mean", "flatten")
        )

    @property
    def needs_import(self) -> bool:
        """Whether some convolution reads the input as padded planes."""
        return any(
            isinstance(op, Conv) and INPUT in op.inputs and not strided(op) for op in self.ops
        )

    def aliased(self, index: int) -> bool:
        """Whether a flattened vector simply is its source."""
        op = self.ops[index]
        flat = isinstance(op, Other) and op.kind == "flatten"
        return flat and not self.is_planes(op.inputs[0]) and index != len(self.ops) - 1

    def inside(self, value: int, concat: int) -> bool:
        """Whether a value is computed in its place within a concatenation."""
        return value in self._home and self._home[value][0] == concat

    def layout(self, value: int) -> PlaneLayout:
        """The layout of a value's planes."""
        _, height, width = self.shape(value)
        root = self._find(value)
        return PlaneLayout(height, width, self._pitch[root], self._lead[root], self._tail[root])

    def source_layout(self, index: int) -> PlaneLayout:
        """The layout of the planes, or phases, that a convolution reads."""
        conv = self.ops[index]
        assert isinstance(conv, Conv)
        if not strided(conv):
            return self.layout(conv.inputs[0])
        height, width = self._phase_size(conv)
        pitch = self._pitch[self._find(index)]
        lead, tail = _padding(conv, height, pitch)
        return PlaneLayout(height, width, pitch, lead, tail)

    def start(self, value: int) -> int:
        """The first float of a value's region in the workspace."""
        if value in self._home:
            concat, channel = self._home[value]
            return self.start(concat) + channel * self.layout(value).size
        if value != INPUT and self.aliased(value):
            return self.start(self.ops[value].inputs[0])
        return self._regions[value].start

    def phases_start(self, index: int) -> int:
        """The first float of the phases that a strided convolution reads."""
        return self._phases[index].start

    # Classes of values.

    def _find(self, value: int) -> int:
        while self._parent.get(value, value) != value:
            value = self._parent[value]
        return value

    def _tie(self) -> None:
        for index, op in enumerate(self.ops):
            if isinstance(op, Conv) and not strided(op):
                self._parent[self._find(op.inputs[0])] = self._find(index)
            elif isinstance(op, Other) and op.kind == "concat":
                channel = 0
                for value in op.inputs:
                    if value != INPUT:
                        self._parent[self._find(value)] = self._find(index)
                        if value not in self._home and op.inputs.count(value) == 1:
                            self._home[value] = index, channel
                    channel += self.shape(value)[0]

    def _phase_size(self, conv: Conv) -> tuple[int, int]:
        _, height, width = self.shape(conv.inputs[0])
        return -(-height // conv.stride[0]), -(-width // conv.stride[1])

    def _measure(self) -> None:
        """Each class's pitch, then the padding before and after its planes."""
        convs = [(i, op) for i, op in enumerate(self.ops) if isinstance(op, Conv)]
        for value in (INPUT, *range(len(self.ops))):
            if self.is_planes(value):
                root = self._find(value)
                self._pitch[root] = max(self._pitch[root], self.shape(value)[2])
        for index, conv in convs:
            root, taps = self._find(index), reach(conv)
            width = self._phase_size(conv)[1]
            need = max(width - taps.left, width, conv.shape[2] + taps.right)
            self._pitch[root] = max(self._pitch[root], need)
        for index, conv in convs:
            if not strided(conv):
                root = self._find(index)
                lead, tail = _padding(conv, self.shape(conv.inputs[0])[1], self._pitch[root])
                self._lead[root] = max(self._lead[root], lead)
                self._tail[root] = max(self._tail[root], tail)

    # Places.

    def _lives(self, value: int) -> tuple[int, int]:
        """First and last operation that need a value; a depthwise one may run with the next."""
        born = 0 if value == INPUT else value
        dies = max([born, *self.users[value]])
        for user in self.users[value]:
            op = self.ops[user]
            if isinstance(op, Conv) and op.depthwise:
                dies = max([dies, *self.users[user]])
            if self._joins(user, value):
                dies = max(dies, self._lives(user)[1])
        return born, dies

    def _joins(self, user: int, value: int) -> bool:
        """Whether an operation's result is the same storage as this value, or holds it."""
        return self.inside(value, user) or self.aliased(user)

    def _allocate(self) -> int:
        for value in (INPUT, *range(len(self.ops))):
            if value in self._home or (value == INPUT and not self.needs_import):
                continue
            if value != INPUT and self.aliased(value):
                continue
            born, dies = self._lives(value)
            if not self.is_planes(value):
                features = self.shape(value)[0]
                self._regions[value] = Region(
                    PlaneLayout(1, features, features, 0, 0), 1, born, dies
                )
                continue
            # What lies inside may be computed long before the values are joined, and read after.
            inner = [self._lives(v) for v in self._home if self._within(v, value)]
            born = min([born, *(first for first, _ in inner)])
            dies = max([dies, *(last for _, last in inner)])
            self._regions[value] = Region(self.layout(value), self.shape(value)[0], born, dies)
        for index, op in enumerate(self.ops):
            if isinstance(op, Conv) and strided(op):
                phases = op.stride[0] * op.stride[1] * self.shape(op.inputs[0])[0]
                dies = max([index, *self.users[index]]) if op.depthwise else index
                self._phases[index] = Region(self.source_layout(index), phases, index, dies)
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


def _padding(conv: Conv, height: int, pitch: int) -> tuple[int, int]:
    """Zeros that a convolution reads before the first and after the last of ``height`` rows."""
    taps = reach(conv)
    lead = max(0, -(taps.top * pitch + taps.left))
    last = round_up(conv.shape[1] * pitch, LANES) + taps.bottom * pitch + taps.right
    return round_up(lead, LINE), max(0, last - height * pitch)
