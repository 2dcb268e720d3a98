"""From torch.export's graph to operations: nodes in turn; what depends on no input is computed."""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from billhook.inference.graph.capture.atoms import Atom, atoms_of, expand, size_of
from billhook.inference.graph.capture.trace import Arguments, Trace, Value, constant, handlers
from billhook.inference.graph.elementwise import Elementwise
from billhook.inference.graph.ops import Op, UnsupportedError
from billhook.inference.graph.program import DTYPES, Graph, Input, Output
from billhook.inference.graph.sequence import Cast
from billhook.inference.graph.soundness import check_graph
from billhook.torch_private import leaves, map_leaves, schema_of, unflatten

__all__ = ["Captured", "capture", "capture_graph", "capture_maps"]

# A batch of one is captured with so many samples, so that shapes do not take its 1 for a constant.
SAMPLES = 3
IGNORED = ("_set_grad_enabled", "_assert_tensor_metadata", "_assert_scalar", "_assert_async")
Captured = tuple[Graph, Callable[[list[torch.Tensor]], Any] | None]
"""A graph, and what makes of its outputs the model's, if these are not tensors in tuples."""


def capture_graph(model: nn.Module, inputs: Sequence[Any]) -> Captured:
    """The graph of an eval-mode model for inputs of these sizes and any batch.

    Raises:
        UnsupportedError: The model cannot be captured, or has an operation that is not known here;
            the message says where.
    """
    tensors = [x for x in leaves(inputs) if x is not None]
    plain = all(torch.is_tensor(x) and x.layout == torch.strided for x in tensors)
    if not tensors or not plain or any(x.dtype not in DTYPES.values() for x in tensors):
        raise UnsupportedError("one program takes tensors of fp32, int64, int32 or bool")
    if any(x.numel() == 0 for x in tensors):
        raise UnsupportedError("an input has no elements")
    obstacle: UnsupportedError | None = None
    for axes in _batch_axes(model, tensors):
        try:
            graph, pack = _Export(model, inputs, axes).run()
            check_graph(graph)
            return graph, pack
        except UnsupportedError as error:
            obstacle = obstacle or error
        except ValueError as error:
            obstacle = obstacle or UnsupportedError(str(error))
    raise obstacle or UnsupportedError("the inputs have no dimension of samples")


def capture(model: nn.Module, inputs: torch.Tensor | Sequence[Any]) -> list[Op]:
    """An eval-mode model's operations in the order in which they run, for one input or several.

    Whoever writes a plan by hand, ``compile(model, x, plan={..., "layers": {name: ...}})``, finds
    the layers' names here.

    Raises:
        UnsupportedError: As for ``capture_graph``.
    """
    return list(capture_graph(model, (inputs,) if torch.is_tensor(inputs) else inputs)[0].ops)


def capture_maps(model: nn.Module, x: torch.Tensor) -> Graph:
    """The same where one input of maps (N, C, H, W) or (N, C, T) leads to one output, made by the
    last operation.

    Raises:
        UnsupportedError: The model is of another kind.
    """
    graph, pack = capture_graph(model, (x,))
    whole = len(graph.outputs) == 1 and graph.outputs[0].value == len(graph.ops) - 1
    if pack is not None or graph.structure != 0 or not whole or len(graph.inputs[0].form) != 3:
        raise UnsupportedError("not one input of maps with one output")
    return graph


def _batch_axes(model: nn.Module, tensors: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Where the inputs may have their samples: the first dimension, or the second in what reads
    time first, and in the states of recurrent layers."""
    kinds = [m for m in model.modules() if hasattr(m, "batch_first")]
    first = [0] * len(tensors)
    candidates = [first]
    if any(isinstance(m, nn.RNNBase) for m in kinds):
        states = [0] + [1 if x.dim() == 3 else 0 for x in tensors[1:]]
        candidates.insert(0, states)
    if any(not m.batch_first for m in kinds):
        candidates.insert(0, [min(1, x.dim() - 1) for x in tensors])
    tried: list[list[int]] = []
    for axes in candidates:
        ranks = all(x.dim() > axis for x, axis in zip(tensors, axes, strict=True))
        if axes in tried or not ranks:
            continue
        tried.append(axes)
        if len({x.shape[axis] for x, axis in zip(tensors, axes, strict=True)}) == 1:
            yield axes


class _Export:
    def __init__(self, model: nn.Module, inputs: Sequence[Any], axes: Sequence[int]) -> None:
        axis = iter(axes)

        def several(x: Any) -> Any:
            if not torch.is_tensor(x):
                return x
            own = next(axis)
            whole = x.detach().clone()
            if whole.shape[own] > 1:
                return whole
            return torch.cat([whole] * SAMPLES, own)

        given = map_leaves(several, tuple(inputs))
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what recurrent layers keep beside weights
                self.program = torch.export.export(model, given, strict=False)
        except Exception as error:  # torch.export raises many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UnsupportedError(f"torch.export cannot capture it: {reason}") from error
        tensors = [x for x in leaves(given) if torch.is_tensor(x)]
        self.axes, self.examples = list(axes), tensors
        self.nodes: fx.Graph = self.program.graph
        self.trace = Trace(Atom(tensors[0].shape[axes[0]]))
        self.storage: dict[fx.Node, fx.Node] = {}
        self.outputs_taken: set[int] = set()
        self.place = {node: place for place, node in enumerate(self.nodes.nodes)}

    def run(self) -> Captured:
        signature = self.program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        known = {**self.program.state_dict, **self.program.constants}
        inputs = self._inputs()
        for node in self.nodes.nodes:
            if node.op == "placeholder" and node.name in names:
                name = names[node.name]
                self.trace.values[node] = constant(known[name], name)
            elif node.op == "call_function":
                try:
                    self._call(node)
                except UnsupportedError as error:
                    raise UnsupportedError(f"{error}{_where(node)}") from error
        return self._graph(inputs)

    # Borders.

    def _inputs(self) -> list[Input]:
        """The inputs of the graph; those of integers are converted where they come in."""
        user = list(self.program.graph_signature.user_inputs)
        nodes = [n for n in self.nodes.nodes if n.op == "placeholder" and n.name in user]
        nodes = [n for n in nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        if len(nodes) != len(self.examples):
            raise UnsupportedError("inputs that are not tensors")
        inputs = []
        for k, (node, x, axis) in enumerate(zip(nodes, self.examples, self.axes, strict=True)):
            dims = [atoms_of(size) for size in x.shape]
            dims[axis] = (self.trace.batch,)
            shape = tuple(x.shape[:axis] + x.shape[axis + 1 :])
            dtype = next(name for name, own in DTYPES.items() if own == x.dtype)
            given = Input(node.name, shape, dtype, axis)
            inputs.append(given)
            value = Value(tuple(dims), self._raw(k, given))
            whole = len(given.form) == 3
            axes = self.trace.default_axes(value) if whole else (self.trace.features(value),)
            self.trace.values[node] = replace(value, axes=axes)
        return inputs

    def _raw(self, k: int, given: Input) -> int:
        if given.dtype == "F32":
            return -1 - k
        return self.trace.add(Cast(given.name, (-1 - k,), given.form, number=given.dtype))

    def _graph(self, inputs: list[Input]) -> Captured:
        (output,) = [n for n in self.nodes.nodes if n.op == "output"]
        results = list(output.args[0])
        outputs: list[Output] = []
        spec = self.program.call_spec.out_spec
        places: dict[Any, int] = {}
        for node in results:
            if not isinstance(node, fx.Node):
                raise UnsupportedError("an output that is not a tensor")
            if node not in places:
                places[node] = len(outputs)
                outputs.append(self._output(node, len(outputs)))
        order = [places[node] for node in results]
        graph = _without_unused(self.trace.ops, inputs, outputs)
        if spec.is_leaf():
            return graph, None
        nested = unflatten(order, spec)
        graph = replace(graph, structure=_structure(nested))
        if _in_tuples(nested):
            return graph, None
        return graph, partial(_packed, order=order, spec=spec)

    def _output(self, node: fx.Node, k: int) -> Output:
        value = self.trace.value(node)
        if value.constant is not None or node.meta["val"].dtype != torch.float32:
            raise UnsupportedError(f"an output of {node.meta['val'].dtype}, or a constant one")
        order, batch = self.trace.features(value), self.trace.batch
        axis = next((d for d, dim in enumerate(value.dims) if batch in expand(dim)), None)
        if axis is None or expand(value.dims[axis])[0] is not batch:
            raise UnsupportedError("an output whose samples are not one dimension")
        if tuple(a for dim in value.axes for a in expand(dim)) != order or value.number < 0:
            value = replace(value, number=self.trace.arrange(value, (order,)), axes=(order,))
        number = value.number
        if number < 0 or number in self.outputs_taken or not self._made(number):
            shape = tuple(size_of(dim) for dim in value.axes)
            same = Elementwise(node.name, (number,), shape, "none", "affine", (1.0, 0.0))
            number = self.trace.add(same)
        self.outputs_taken.add(number)
        merged = expand(value.dims[axis])[1:]
        sizes = [size_of(expand(dim)) for dim in value.dims]
        sizes[axis : axis + 1] = [size_of(merged)] if merged else []
        return Output(f"y{k}", number, tuple(sizes), axis, bool(merged))

    def _made(self, number: int) -> bool:
        """Whether a value is made by a step, and is not another as it lies."""
        op = self.trace.ops[number]
        return not op.nests and op.data is None

    # Nodes.

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        name = getattr(getattr(target, "overloadpacket", None), "__name__", None)
        name = name or getattr(target, "__name__", str(target))
        if name in IGNORED:
            return
        if not any(_computed(self.trace.values.get(n)) for n in node.all_input_nodes):
            self._follow_storage(node, {}, False)
            if not _is_function(target):
                raise UnsupportedError(f"the network plan does not know {target}")
            self.trace.values[node] = self._known(node)
            return
        if target is operator.getitem:
            part, index = node.args
            self.trace.values[node] = self.trace.values[part][index]  # type: ignore[index]
            return
        handler = handlers.get(str(name).rstrip("_"))
        schema = schema_of(target)
        if handler is None or schema is None:
            raise UnsupportedError(f"the network plan does not know {target}")
        known = schema.arguments
        arguments: Arguments = {a.name: a.default_value for a in known if a.has_default_value()}
        arguments |= dict(zip((a.name for a in known), node.args, strict=False))
        arguments |= node.kwargs
        self._follow_storage(node, arguments, name in ("dropout", "feature_dropout", "alias"))
        self.trace.values[node] = handler(self.trace, node, arguments)

    def _known(self, node: fx.Node) -> Any:
        """What a node gives that depends on no input."""
        schema = schema_of(node.target)
        copies = schema is not None and schema.is_mutable

        def number(n: fx.Node) -> Any:
            given = self.trace.values.get(n)
            if isinstance(given, Value):
                assert given.constant is not None
                return given.constant.clone() if copies else given.constant
            return given

        args, kwargs = fx.map_arg((node.args, node.kwargs), number)
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        return map_leaves(lambda x: constant(x) if torch.is_tensor(x) else x, result)

    def _follow_storage(self, node: fx.Node, arguments: Arguments, is_alias: bool) -> None:
        """Notes whose memory a result lies in, and refuses writes that another reader would see.

        Dropout returns its input, a reshape is a view of it. What writes in place has changed them
        all, which a program of values cannot show.
        """
        schema: Any = schema_of(node.target)
        if schema is None:
            return
        given = arguments.values() if arguments else node.args
        source = next((a for a in given if isinstance(a, fx.Node)), node)
        views = is_alias or any(result.alias_info is not None for result in schema.returns)
        root = self.storage.get(source, source) if views else node
        self.storage[node] = root
        if not schema.is_mutable:
            return
        sharing = [n for n, own in self.storage.items() if own is root and n is not node]
        users = [user for n in (root, *sharing) for user in n.users]
        later = [u for u in users if self.place[u] > self.place[node] and u is not node]
        if later or root.op == "placeholder":
            raise UnsupportedError(
                f"{node.name} changes in place what is read elsewhere too: use the operation "
                "that returns a new tensor"
            )


def _is_function(target: Any) -> bool:
    """Whether a node's target does nothing but compute: what enters a transform or draws numbers
    must not be called."""
    if schema_of(target) is None:
        return getattr(target, "__module__", "") in ("_operator", "math", "builtins")
    return torch.Tag.nondeterministic_seeded not in target.tags


def _computed(value: Any) -> bool:
    """Whether a value depends on an input."""
    if isinstance(value, tuple | list):
        return any(map(_computed, value))
    return isinstance(value, Value) and value.constant is None


def _where(node: fx.Node) -> str:
    """The module of the model and the line of its code that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    module = [path for path, _ in stack.values()][-1] if stack else ""
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    code = next((line.strip() for line in reversed(lines) if line.strip().startswith("File")), "")
    places = [part for part in (f"in {module}" if module else "", code) if part]
    return f" ({', '.join(places)})" if places else ""


def _in_tuples(nested: Any) -> bool:
    return type(nested) is int or (type(nested) is tuple and all(map(_in_tuples, nested)))


def _structure(nested: Any) -> Any:
    if nested is None or isinstance(nested, int):
        return nested
    if isinstance(nested, Mapping):
        return {str(name): _structure(part) for name, part in nested.items()}
    if isinstance(nested, list | tuple):
        return [_structure(part) for part in nested]
    if hasattr(nested, "__dict__"):
        return {str(k): _structure(v) for k, v in vars(nested).items()}
    raise UnsupportedError(f"outputs in a {type(nested).__name__}")


def _packed(outputs: list[torch.Tensor], order: list[int], spec: Any) -> Any:
    return unflatten([outputs[k] for k in order], spec)


def _without_unused(ops: list[Op], inputs: list[Input], outputs: list[Output]) -> Graph:
    """The graph without operations whose results nothing reads."""
    needed: set[int] = set()
    waiting = [output.value for output in outputs]
    while waiting:
        value = waiting.pop()
        if value >= 0 and value not in needed:
            needed.add(value)
            waiting += ops[value].inputs
    numbers = {old: new for new, old in enumerate(sorted(needed))}
    kept = [
        replace(ops[old], inputs=tuple(numbers.get(v, v) for v in ops[old].inputs))
        for old in sorted(needed)
    ]
    renamed = [replace(output, value=numbers[output.value]) for output in outputs]
    return Graph(tuple(kept), tuple(inputs), tuple(renamed))
