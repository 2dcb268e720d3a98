"""Lowering: the operations of a network to the steps that run them, by a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

from billhook.errors import ConfigurationError
from billhook.inference.graph import INPUT, Conv, Layer, Op
from billhook.inference.graph.maps import copy_step
from billhook.inference.graph.ops import Dense, Packed, Packings, Part, Plain, Shape, Target
from billhook.inference.kernels import Step, struct_array
from billhook.inference.network.placement import place
from billhook.inference.plan import Choice

__all__ = ["Lowering", "Native", "native"]


@dataclass
class Native:
    """Steps that run in one native call; what they point to lives in :attr:`Lowering.target`."""

    steps: object
    count: int


class Lowering:
    """Turns operations into steps, by a plan, and holds the weights that are packed for them.

    Args:
        ops: The operations, as :func:`billhook.inference.graph.capture.capture` gives them.
        input_shape: (C, H, W) of one sample.
        choices: One choice for each convolution and linear layer, by name.
        isa: The instruction set, a row of the library's table.
        packings: What was packed before for other sizes of the same network, and takes what is
            packed now.
        target: What the steps are given to read; by default their packed weights.
    """

    def __init__(
        self,
        ops: list[Op],
        input_shape: Shape,
        choices: Mapping[str, Choice],
        isa: int,
        packings: Packings | None = None,
        *,
        target: Target | None = None,
    ) -> None:
        self.ops, self.input_shape, self.choices = ops, input_shape, choices
        self.placed = place(ops, input_shape)
        self.target = Target(isa, packings) if target is None else target
        self._fills = {  # operation: the depthwise one that fills its panels
            self.placed.users[index][0]: index
            for index, op in enumerate(ops)
            if isinstance(op, Layer) and choices[op.name].kernel == "fused"
        }

    @property
    def packed(self) -> list[Packed]:
        """The packed weights that the steps read."""
        return self.target.packed

    def filled_by(self, index: int) -> int | None:
        """The depthwise operation that fills the panels of this one, if any."""
        return self._fills.get(index)

    def program(self) -> list[Native | Dense]:
        """The whole network: runs of native steps, and what torch does between them."""
        return _grouped([part for _, part in self.parts()])

    def parts(self) -> list[tuple[int, Part]]:
        """Its steps, each with the number of its operation (-1 for the input's)."""
        steps: list[tuple[int, Part]] = []
        layers = [
            (index, self.choices[op.name])
            for index, op in enumerate(self.ops)
            if isinstance(op, Layer)
        ]
        if any(self.imports(index, choice) for index, choice in layers):
            steps.append((INPUT, self.import_step()))
        for index, op in enumerate(self.ops):
            own: list[Part] = []
            if isinstance(op, Layer):
                own = self.lower(index, self.choices[op.name], self.filled_by(index))
            elif isinstance(op, Plain):
                own = op.steps(self.placed.sites[index])
            steps += [(index, part) for part in own]
        return [*steps, *((len(self.ops) - 1, part) for part in self._export())]

    def lower(self, index: int, choice: Choice, depthwise: int | None = None) -> list[Part]:
        """The steps of a layer; ``depthwise`` is the operation that it runs as well, if any."""
        op, site = self.ops[index], self.placed.sites[index]
        assert isinstance(op, Layer)
        self._check(index, op, choice)
        if depthwise is None:
            return op.lower(index, site, choice, self.target)
        first = self.ops[depthwise]
        assert isinstance(op, Conv)
        assert isinstance(first, Conv)
        before = depthwise, first, self.placed.sites[depthwise]
        return op.lower_after(before, index, site, choice, self.target)

    def _check(self, index: int, op: Layer, choice: Choice) -> None:
        """Refuse a kernel that cannot run a layer: it would read outside of the arrays."""
        users = self.placed.users[index]
        runs = op.kernels_for(self.ops[users[0]] if len(users) == 1 else None)
        if choice.kernel not in runs:
            raise ConfigurationError(
                f"the plan runs {op.name} by the kernel {choice.kernel!r}, it can be run by "
                f"{', '.join(runs)}: compile the model again"
            )

    def imports(self, index: int, choice: Choice) -> bool:
        """Whether a layer that runs so reads the network's input as padded planes."""
        op = self.ops[index]
        return isinstance(op, Layer) and op.imports(self.placed.sites[index], choice)

    def import_step(self) -> Step:
        """The network's input as padded planes."""
        return copy_step(self.placed.source, self.placed.imported, self.input_shape)

    def _export(self) -> list[Part]:
        """Planes that did not come out where the result is wanted, brought there."""
        op, site = self.ops[-1], self.placed.sites[-1]
        written = isinstance(op, Layer) and op.writes_result(site, self.choices[op.name])
        if site.result is None or written:
            return []
        return [copy_step(site.output, site.result, op.shape)]


def native(steps: list[Step]) -> Native:
    """The steps as the native call takes them."""
    return Native(struct_array(steps), len(steps))


def _grouped(parts: list[Part]) -> list[Native | Dense]:
    """Native steps that follow each other as one call."""
    grouped: list[Native | Dense] = []
    pending: list[Step] = []
    for part in parts:
        if isinstance(part, Step):
            pending.append(part)
            continue
        if pending:
            grouped.append(native(pending))
            pending = []
        grouped.append(part)
    return [*grouped, native(pending)] if pending else grouped
