"""Lowering: the operations of a network to the steps that run them, by a plan."""

from collections.abc import Mapping

from billhook.errors import ConfigurationError
from billhook.inference.graph import Conv, Graph, Layer
from billhook.inference.graph.maps import copy_step
from billhook.inference.graph.ops import Packed, Packings, Plain, Target
from billhook.inference.kernels import Step
from billhook.inference.network.placement import place
from billhook.inference.plan import Choice

__all__ = ["Lowering"]


class Lowering:
    """Turns operations into steps, by a plan, and holds the weights that are packed for them.

    Args:
        graph: The network, as :func:`billhook.inference.graph.capture_graph` gives it.
        choices: One choice for each layer, by name.
        isa: The instruction set, a row of the library's table.
        packings: What was packed before for other sizes of the same network, and takes what is
            packed now.
        target: What the steps are given to read; by default their packed weights.
    """

    def __init__(
        self,
        graph: Graph,
        choices: Mapping[str, Choice],
        isa: int,
        packings: Packings | None = None,
        *,
        target: Target | None = None,
    ) -> None:
        self.graph, self.ops, self.choices = graph, graph.ops, choices
        self.placed = place(graph)
        self.target = Target(isa, packings) if target is None else target
        self._fills = {  # operation: the depthwise one that fills its panels
            self.placed.users[index][0]: index
            for index, op in enumerate(self.ops)
            if isinstance(op, Layer) and choices[op.name].kernel == "fused"
        }

    @property
    def packed(self) -> list[Packed]:
        """The packed weights that the steps read."""
        return self.target.packed

    def filled_by(self, index: int) -> int | None:
        """The depthwise operation that fills the panels of this one, if any."""
        return self._fills.get(index)

    def steps(self) -> list[Step]:
        """The whole network's; what they point to lives in :attr:`target`."""
        layers = [
            (index, self.choices[op.name])
            for index, op in enumerate(self.ops)
            if isinstance(op, Layer)
        ]
        steps = [
            self._import(value)
            for value in self.placed.imports
            if any(value in self.imported(index, choice) for index, choice in layers)
        ]
        for index, op in enumerate(self.ops):
            if isinstance(op, Layer):
                steps += self.lower(index, self.choices[op.name], self.filled_by(index))
            elif isinstance(op, Plain):
                steps += op.steps(self.placed.sites[index])
        return [*steps, *self._export()]

    def lower(self, index: int, choice: Choice, depthwise: int | None = None) -> list[Step]:
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

    def imported(self, index: int, choice: Choice) -> tuple[int, ...]:
        """The values outside of the workspace that a layer that runs so reads in padded planes."""
        op, site = self.ops[index], self.placed.sites[index]
        if isinstance(op, Layer) and op.imports(site, choice):
            return tuple(value for value in op.inputs if value in self.placed.imports)
        return ()

    def _import(self, value: int) -> Step:
        """A value from outside of the workspace as padded planes."""
        source, copy = self.placed.imports[value]
        return copy_step(source, copy, self.graph.shapes[value])

    def steps_of_layer(self, index: int, choice: Choice, depthwise: int | None) -> list[Step]:
        """The steps of a layer by itself, with the copies that it needs."""
        copies = [self._import(value) for value in self.imported(index, choice)]
        return copies + self.lower(index, choice, depthwise)

    def _export(self) -> list[Step]:
        """Planes that did not come out where results are wanted, brought there."""
        steps = []
        for value, wanted in self.placed.exports.items():
            op, site = self.ops[value], self.placed.sites[value]
            if not isinstance(op, Layer) or not op.writes_result(site, self.choices[op.name]):
                steps.append(copy_step(site.output, wanted, op.shape))
        return steps
