"""The network plan: a model as steps over one workspace, one native call per batch."""

import ctypes
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.inference import kernels
from billhook.inference.graph import Graph, Input, Layer
from billhook.inference.graph.lengths import Lengths
from billhook.inference.graph.ops import Packings
from billhook.inference.graph.program import DTYPES
from billhook.inference.graph.soundness import check_graph
from billhook.inference.inputs import by_position, check_input
from billhook.inference.kernels import Array
from billhook.inference.limits import Limits, opening_floats
from billhook.inference.network.lowering import Lowering
from billhook.inference.plan import Choice
from billhook.inference.weights.csr import bytes_of
from billhook.torch_private import leaves

__all__ = ["Network"]

MAX_LENGTHS = 32  # whose steps are kept
MAX_FLOATS = 2**31 - 1  # of a workspace: offsets have 32 bits


class Network(nn.Module):
    """A model of some inputs and outputs. A batch may have any size, and sequences other lengths
    where those follow from the captured one; all other sizes are as they were captured.

    Several threads may call it at once; each call takes a workspace of its own from a pool.

    Args:
        graph: The network, as :func:`billhook.inference.graph.capture_graph` gives it.
        choices: The plan: one choice for each layer, by name.
        isa: The instruction set, a row of the library's table.
        limits: What a program from a file may take, None for one that this process made.
        packings: What networks of other input sizes, and else the same, have packed.
        pack: Makes of the outputs what the model returns; by default tuples and dicts.
        lengths: What networks for other lengths of its sequences follow from, if they do.

    Raises:
        ConfigurationError: A sample needs more floats than the kernels count to.
        ValueError: The program takes more than its limits.
    """

    def __init__(
        self,
        graph: Graph,
        choices: Mapping[str, Choice],
        isa: int,
        *,
        limits: Limits | None = None,
        packings: Packings | None = None,
        pack: Callable[[list[torch.Tensor]], Any] | None = None,
        lengths: Lengths | None = None,
    ) -> None:
        super().__init__()
        self.graph, self.choices, self.isa, self.packs = graph, dict(choices), isa, pack
        self.lengths, self.limits = lengths, limits
        self._others: dict[int, Network] = {}
        self.lowering = Lowering(graph, self.choices, isa, packings)
        placed = self.lowering.placed
        if max(placed.size, placed.constant_size) > MAX_FLOATS:
            shapes = ", ".join(str(given.shape) for given in graph.inputs)
            raise ConfigurationError(
                f"a sample of {shapes} needs {placed.size} floats, the kernels count to "
                f"{MAX_FLOATS}: compile for a smaller input"
            )
        if limits is not None:
            self._check(limits)
        self.steps = kernels.struct_array(self.lowering.steps())
        self.constants = torch.zeros(placed.constant_size, dtype=torch.float32, device="cpu")
        for index, data in graph.constants():
            start = placed.constants[index]
            self.constants[start : start + data.numel()] = data.detach().flatten()
        given = (math.prod(each.shape) * DTYPES[each.dtype].itemsize for each in graph.inputs)
        made = (4 * math.prod(each.shape) for each in graph.outputs)
        self._strides = (0, 0, *given, *made)  # bytes of a sample in each buffer
        self._shapes_of_one = [o.shape_of_one for o in self.outputs]
        self._pool: list[torch.Tensor] = []
        self._lock = threading.Lock()
        self.eval()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.graph, self.choices, self.isa, self.packs, self.lengths)

    @property
    def ops(self) -> Sequence[Any]:
        """The operations."""
        return self.graph.ops

    def _check(self, limits: Limits) -> None:
        placed = self.lowering.placed
        limits.check("one sample", placed.size, limits.workspace)
        limits.check("opening it", opening_floats(self.ops, set(placed.layouts)), limits.opening)
        limits.check("running it", self.graph.work, limits.work)

    def takes_at_most(self, floats: int) -> bool:
        """Whether one sample takes no more floats of memory, and makes no more read."""
        given = sum(math.prod(each.shape) for each in self.graph.inputs)
        return max(self.lowering.placed.size, self.graph.work, given) <= floats

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, in each layout in which they are held, and of the constants."""
        return bytes_of(self.arrays()) + self.constants.nbytes

    def arrays(self) -> list[Array]:
        """The memory that its weights take, in each layout in which they are held."""
        held = [array for op in self.ops if isinstance(op, Layer) for array in op.arrays()]
        return held + [array for rows in self.lowering.packed for array in rows.arrays()]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The model's inputs, by position or by name, to its outputs."""
        if named:
            inputs = by_position(inputs, named, [each.name for each in self.graph.inputs])
        own = self.for_length(inputs)
        if own is not self:
            return own(*inputs)
        given = self.samples(inputs)
        batch = len(given[0])
        one = batch == 1  # nothing then has to be moved
        shapes = self._shapes_of_one if one else [(batch, *o.shape) for o in self.outputs]
        results = [torch.empty(shape, dtype=torch.float32, device="cpu") for shape in shapes]
        workspace = self.take()
        try:
            self.run_native(self.steps, workspace, given, results)
        finally:
            self.give(workspace)
        if not one:
            results = [o.of_batch(y) for o, y in zip(self.outputs, results, strict=True)]
        return self.graph.pack(results) if self.packs is None else self.packs(results)

    def for_length(self, inputs: Sequence[Any]) -> "Network":
        """The network for inputs of this length, which shares the weights.

        Raises:
            ConfigurationError: There is none.
        """
        if self.lengths is None or (more := self._longer_by(self.lengths, inputs)) == 0:
            return self
        with self._lock:
            network = self._others.pop(more, None)
        if network is None:
            network = self._made_for(self.lengths, more)
        with self._lock:
            self._others[more] = network  # the last one now
            while len(self._others) > MAX_LENGTHS:
                del self._others[next(iter(self._others))]
        return network

    def _longer_by(self, lengths: Lengths, inputs: Sequence[Any]) -> int:
        if self.takes_now(inputs):
            return 0
        given = [x for x in leaves(inputs) if x is not None]
        shapes = [
            tuple(x.shape[: each.axis] + x.shape[each.axis + 1 :])
            for x, each in zip(given, self.graph.inputs, strict=False)
            if torch.is_tensor(x)
        ]
        return lengths.more(self.graph, shapes)

    def _made_for(self, lengths: Lengths, more: int) -> "Network":
        try:
            graph = lengths.at(self.graph, more)
            check_graph(graph)
            sample = sum(math.prod(each.shape) for each in graph.inputs)
            limits = None if self.limits is None else self.limits.for_sample(4 * sample)
            return Network(
                graph,
                self.choices,
                self.isa,
                limits=limits,
                packings=self.lowering.target.packings,
                pack=self.packs,
            )
        except ValueError as error:
            raise ConfigurationError(
                f"this program cannot run sequences longer by {more} than the example's: {error}"
            ) from error

    @property
    def outputs(self) -> tuple[Any, ...]:
        return self.graph.outputs

    def samples(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """The inputs, checked, one sample after another."""
        wanted = self.graph.inputs
        given = [x for x in leaves(inputs) if x is not None]
        if len(given) != len(wanted):
            names = ", ".join(each.name for each in wanted)
            raise ConfigurationError(f"this program takes {names}, it was given {len(given)}")
        samples = [_sample(x, each) for x, each in zip(given, wanted, strict=True)]
        if len({len(x) for x in samples}) != 1:
            raise ConfigurationError(
                f"the inputs have batches of {', '.join(str(len(x)) for x in samples)}"
            )
        return samples

    def takes(self, *inputs: Any) -> bool:
        """Whether the inputs have sizes that the program runs."""
        return self.lengths is not None or self.takes_now(inputs)

    def takes_now(self, inputs: Sequence[Any]) -> bool:
        """Whether the inputs have the sizes that it was compiled for."""
        given = [x for x in leaves(inputs) if x is not None]
        own = list(zip(given, self.graph.inputs, strict=False))
        fit = len(given) == len(self.graph.inputs) and all(_fits(x, each) for x, each in own)
        return fit and len({x.shape[each.axis] for x, each in own}) == 1

    def take(self) -> torch.Tensor:
        """A workspace whose padding is zero."""
        with self._lock:
            if self._pool:
                return self._pool.pop()
        return torch.zeros(self.lowering.placed.size, dtype=torch.float32, device="cpu")

    def give(self, workspace: torch.Tensor) -> None:
        """Back into the pool."""
        with self._lock:
            self._pool.append(workspace)

    def run_native(
        self,
        steps: "ctypes.Array[kernels.Step]",
        workspace: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        """Some steps for every sample of the inputs."""
        kernels.run_steps(
            steps,
            [x.data_ptr() for x in (workspace, self.constants, *inputs, *outputs)],
            self._strides,
            samples=len(inputs[0]),
            threads=torch.get_num_threads(),
            isa=self.isa,
        )


def _sample(x: Any, wanted: Input) -> torch.Tensor:
    """An input with the batch first, contiguous, as the steps read it."""
    check_input("this program", x, DTYPES[wanted.dtype])
    if not _fits(x, wanted):
        shape = (*wanted.shape[: wanted.axis], "N", *wanted.shape[wanted.axis :])
        sizes = ", ".join(map(str, shape))
        raise ConfigurationError(
            f"{wanted.name}'s shape is {tuple(x.shape)}: this program was compiled for ({sizes}); "
            "compile it again for another size"
        )
    if wanted.axis == 0 and x.is_contiguous() and not x.is_neg():
        ready: torch.Tensor = x
        return ready
    samples: torch.Tensor = x.detach().resolve_neg().movedim(wanted.axis, 0).contiguous()
    return samples


def _fits(x: torch.Tensor, wanted: Input) -> bool:
    """Whether a tensor is some samples of an input."""
    own = tuple(x.shape)
    others = own[: wanted.axis] + own[wanted.axis + 1 :]
    return len(own) == len(wanted.shape) + 1 and others == wanted.shape


def _again(
    graph: Graph,
    choices: dict[str, Choice],
    isa: int,
    pack: Callable[..., Any] | None,
    lengths: Lengths | None,
) -> Network:
    """A copy, with this machine's kernels if it comes from a better one."""
    return Network(graph, choices, kernels.runnable(isa), pack=pack, lengths=lengths)
