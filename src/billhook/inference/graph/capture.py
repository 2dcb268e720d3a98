"""A feed-forward CNN as a list of operations, captured with torch.export, batch norm folded in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from billhook.inference.graph.conv import Conv
from billhook.inference.graph.elementwise import FUNCTIONS, Elementwise, Multiply
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Activation, Add, Concat, Flatten, Mean, Pool
from billhook.inference.graph.ops import INPUT, Op, Shape, UnsupportedError

__all__ = ["capture"]


def capture(model: nn.Module, example: torch.Tensor) -> list[Op]:
    """The operations of an eval-mode model on one 4-dimensional input; the last is its output.

    Raises:
        UnsupportedError: The model cannot be captured, or has an operation that is not known here.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(model, (example,), strict=False)
    except Exception as error:  # torch.export raises many kinds
        raise UnsupportedError(
            f"torch.export cannot capture it: {str(error).splitlines()[0]}"
        ) from error
    return _Capture(program).run()


def _pair(value: Any) -> tuple[int, int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return int(pair[0]), int(pair[-1])


def _conv_padding(
    padding: Any, kernel: Shape, dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right; "same" pads the end more if it cannot pad both ends alike.

    >>> _conv_padding("same", (1, 4), (1, 1))
    (0, 1, 0, 2)
    """
    if padding == "same":
        height, width = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return height // 2, width // 2, height - height // 2, width - width // 2
    height, width = (0, 0) if padding == "valid" else _pair(padding)
    return height, width, height, width


@dataclass(frozen=True)
class _Value:
    """A node's result: the operation that makes it, and zero padding still to be applied."""

    number: int
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


class _Capture:
    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.graph = program.graph
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {**program.state_dict, **program.constants}
        if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
            raise UnsupportedError("the network plan takes one input and gives one output")
        if not program.call_spec.out_spec.is_leaf():
            raise UnsupportedError("the network plan gives one tensor, the model gives a container")
        self.user_input = signature.user_inputs[0]
        self.ops: list[Op] = []
        self.names_taken: set[str] = set()
        self.values: dict[fx.Node, _Value] = {}
        self.storage: dict[fx.Node, fx.Node] = {}
        self.place = {node: place for place, node in enumerate(self.graph.nodes)}

    def run(self) -> list[Op]:
        for node in self.graph.nodes:
            if node.op == "placeholder" and node.name == self.user_input:
                self.values[node] = _Value(INPUT)
                self.input_shape = tuple(node.meta["val"].shape)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                result = self._plain(node.args[0][0])
                if not self.ops or result != len(self.ops) - 1:
                    raise UnsupportedError("the output is not the last operation's result")
        for number, op in enumerate(self.ops):
            self.ops[number] = self._on_vectors(op)
        return self.ops

    def is_vector(self, value: int) -> bool:
        """Whether a value is stored as a vector of features, not as planes."""
        return value != INPUT and not self.ops[value].is_planes

    def _on_vectors(self, op: Op) -> Op:
        """The operation as it works on averaged planes, which are vectors: a 1x1 convolution is a
        linear layer."""
        vectors = [self.is_vector(value) for value in op.inputs]
        if isinstance(op, Multiply):
            return self._product(op, vectors)
        if not any(vectors) or isinstance(op, Linear | Flatten):
            return op
        if isinstance(op, Conv) and op.weight.shape[2:] == (1, 1) and op.groups == 1:
            assert isinstance(op.weight, torch.Tensor)
            weight = op.weight.flatten(1)
            return Linear(op.name, op.inputs, op.shape, op.activation, weight, op.bias)
        if isinstance(op, Elementwise):
            return replace(op, vector=True)
        if isinstance(op, Activation):
            return Elementwise(op.name, op.inputs, op.shape, vector=True, function=op.activation)
        raise UnsupportedError(f"{op.name} works on averaged planes")

    def _product(self, op: Multiply, vectors: list[bool]) -> Op:
        """A map comes first; its factor is a map of the same shape or a vector."""
        if vectors == [True, False]:
            return replace(op, inputs=op.inputs[::-1])
        shapes = [self.input_shape[1:] if v == INPUT else self.ops[v].shape for v in op.inputs]
        if vectors == [False, False] and shapes[0] != shapes[1]:
            raise UnsupportedError(f"{op.name} multiplies {shapes[0]} by {shapes[1]}")
        return replace(op, vector=all(vectors))

    def _call(self, node: fx.Node) -> None:
        target = node.target
        name = getattr(getattr(target, "overloadpacket", None), "__name__", str(target))
        handler: Callable[[_Capture, fx.Node, dict[str, Any]], _Value] | None = _HANDLERS.get(
            name.rstrip("_")
        )
        if handler is None:
            raise UnsupportedError(f"the network plan does not know {target}")
        schema = target._schema.arguments  # type: ignore[union-attr]
        arguments = {a.name: a.default_value for a in schema if a.has_default_value()}
        arguments |= dict(zip((a.name for a in schema), node.args, strict=False))
        arguments |= node.kwargs
        self._follow_storage(node, arguments, handler is _Capture.same)
        self.values[node] = handler(self, node, arguments)

    def _follow_storage(self, node: fx.Node, arguments: dict[str, Any], is_alias: bool) -> None:
        """Notes whose memory a result lies in, and refuses writes that another reader would see.

        Dropout returns its input, a reshape is a view of it. What writes in place has changed them
        all, which a program of values cannot show.
        """
        schema = node.target._schema  # type: ignore[union-attr]
        source = next((a for a in arguments.values() if isinstance(a, fx.Node)), node)
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

    def _plain(self, node: Any) -> int:
        """The number of a value that has no padding to be applied."""
        value = self.values.get(node)
        if value is None:
            raise UnsupportedError(f"{node} is neither the input nor computed from it")
        if any(value.padding):
            raise UnsupportedError("padding is followed by something other than a convolution")
        return value.number

    def _tensor(self, node: fx.Node | None) -> torch.Tensor | None:
        if node is None:
            return None
        if node.name not in self.names:
            raise UnsupportedError(
                f"the weight {node} is computed (torch.nn.utils.prune.remove makes masks permanent)"
            )
        tensor: torch.Tensor = self.tensors[self.names[node.name]].detach()
        return tensor

    def _shape(self, node: fx.Node) -> Shape:
        return tuple(node.meta["val"].shape)[1:]

    def _add(self, op: Op) -> _Value:
        """The operation's value; one that has its name already leaves it ``name#2`` and so on."""
        name, uses = op.name, 1
        while name in self.names_taken:
            uses += 1
            name = f"{op.name}#{uses}"
        self.names_taken.add(name)
        self.ops.append(replace(op, name=name))
        return _Value(len(self.ops) - 1)

    def _single_use(self, node: fx.Node, kinds: type | tuple[type, ...]) -> int | None:
        """The value's number if its operation can absorb what follows: nothing else reads the
        value, under whatever name, and it has no activation yet."""
        number = self._plain(node)
        if number < 0 or not isinstance(self.ops[number], kinds):
            return None
        names = [other for other, value in self.values.items() if value.number == number]
        readers = {user for name in names for user in name.users} - set(names)
        return number if len(readers) == 1 and self.ops[number].activation == "none" else None

    # One handler an operator.

    def conv2d(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        weight = self._tensor(a["weight"])
        assert weight is not None
        value = self.values[a["input"]]
        own = _conv_padding(a["padding"], tuple(weight.shape[2:]), _pair(a["dilation"]))
        padding = tuple(p + q for p, q in zip(own, value.padding, strict=True))
        name = self.names[a["weight"].name].removesuffix(".weight")
        op = Conv(
            name=name,
            inputs=(value.number,),
            shape=self._shape(node),
            weight=weight,
            bias=self._tensor(a["bias"]),
            stride=_pair(a["stride"]),
            padding=padding,  # type: ignore[arg-type]
            dilation=_pair(a["dilation"]),
            groups=a["groups"],
        )
        return self._add(op)

    def batch_norm(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        mean, variance = self._tensor(a["running_mean"]), self._tensor(a["running_var"])
        if a["training"] or mean is None or variance is None or len(self._shape(node)) != 3:
            raise UnsupportedError("batch norm without running statistics")
        scale, shift = self._tensor(a["weight"]), self._tensor(a["bias"])
        number = self._single_use(a["input"], Conv)
        if number is None:  # on its own: a depthwise 1x1 convolution
            channels = self._shape(node)[0]
            identity = Conv(
                name=node.name,
                inputs=(self._plain(a["input"]),),
                shape=self._shape(node),
                weight=torch.ones(channels, 1, 1, 1),
                groups=channels,
            )
            number = self._add(identity).number
        conv = self.ops[number]
        assert isinstance(conv, Conv)
        assert isinstance(conv.weight, torch.Tensor)
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, mean, variance, a["eps"], scale, shift
        )
        self.ops[number] = replace(conv, weight=weight.detach(), bias=bias.detach())
        return _Value(number)

    def _activation(self, node: fx.Node, source: fx.Node, activation: str) -> _Value:
        number = self._single_use(source, (Conv, Linear, Add))
        if number is None:
            value = self._plain(source)
            return self._add(Activation(node.name, (value,), self._shape(node), activation))
        self.ops[number] = replace(self.ops[number], activation=activation)
        return _Value(number)

    def relu(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        return self._activation(node, a["self"], "relu")

    def hardtanh(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        if (a["min_val"], a["max_val"]) != (0, 6):
            raise UnsupportedError(f"hardtanh({a['min_val']}, {a['max_val']})")
        return self._activation(node, a["self"], "relu6")

    def relu6(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        return self._activation(node, a["self"], "relu6")

    def _elementwise(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        function = node.target._schema.name.partition("::")[2].rstrip("_")  # type: ignore[union-attr]
        if a.get("approximate", "none") != "none":
            function = f"{function}_{a['approximate']}"
        inputs = (self._plain(a["self"]),)
        return self._add(Elementwise(node.name, inputs, self._shape(node), function=function))

    def mul(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        terms, shape = (a["self"], a["other"]), self._shape(node)
        maps = all(isinstance(term, fx.Node) for term in terms) and len(shape) in (1, 3)
        if not maps or any(self._shape(t) not in (shape, (shape[0], 1, 1)) for t in terms):
            raise UnsupportedError("a product other than of maps, or of a map and its channels")
        inputs = (self._plain(terms[0]), self._plain(terms[1]))
        return self._add(Multiply(node.name, inputs, shape))

    def max_pool2d(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        if _pair(a["dilation"]) != (1, 1):
            raise UnsupportedError("max_pool2d with dilation")
        return self._pool(node, a, "max", True)

    def avg_pool2d(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        before, kernel = self._shape(a["self"]), _pair(a["kernel_size"])
        whole = kernel[0] >= before[-2] and kernel[1] >= before[-1] and not any(_pair(a["padding"]))
        if a["divisor_override"] is not None:
            raise UnsupportedError("avg_pool2d with divisor_override")
        if a["ceil_mode"] and whole:  # one window, cut off at the map's ends
            inputs = (self._plain(a["self"]),)
            return self._add(Mean(node.name, inputs, self._shape(node)))
        if a["ceil_mode"] and a["count_include_pad"]:
            raise UnsupportedError("avg_pool2d with ceil_mode")
        return self._pool(node, a, "average", a["count_include_pad"])

    def _pool(self, node: fx.Node, a: dict[str, Any], kind: str, count: bool) -> _Value:
        kernel = _pair(a["kernel_size"])
        op = Pool(
            name=node.name,
            inputs=(self._plain(a["self"]),),
            shape=self._shape(node),
            kind=kind,
            kernel=kernel,
            stride=_pair(a["stride"]) if a["stride"] else kernel,
            padding=_pair(a["padding"]),
            count_padding=count,
        )
        return self._add(op)

    def adaptive_avg_pool2d(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        size, before = self._shape(node), self._shape(a["self"])
        if size == before:
            return _Value(self._plain(a["self"]))
        if size[1:] == (1, 1):
            return self._add(Mean(node.name, (self._plain(a["self"]),), size))
        raise UnsupportedError(f"adaptive_avg_pool2d from {before[1:]} to {size[1:]}")

    def mean(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        before = self._shape(a["self"])
        axes = sorted(d % (len(before) + 1) for d in a["dim"] or ())
        if len(before) != 3 or axes != [2, 3] or a["dtype"] is not None:
            raise UnsupportedError(f"mean over {a['dim']}")
        shape = self._shape(node)
        return self._add(Mean(node.name, (self._plain(a["self"]),), shape))

    def add(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        terms = (a["self"], a["other"])
        same = all(isinstance(t, fx.Node) and self._shape(t) == self._shape(node) for t in terms)
        if a["alpha"] != 1 or not same or len(self._shape(node)) != 3:
            raise UnsupportedError("an addition other than of two equal maps")
        inputs = (self._plain(terms[0]), self._plain(terms[1]))
        return self._add(Add(node.name, inputs, self._shape(node)))

    def cat(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        if a["dim"] % (len(self._shape(node)) + 1) != 1 or len(self._shape(node)) != 3:
            raise UnsupportedError("a concatenation other than of channels")
        inputs = tuple(self._plain(t) for t in a["tensors"])
        return self._add(Concat(node.name, inputs, self._shape(node)))

    def flatten(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        source = a["self"] if "self" in a else a["input"]
        before, after = self._shape(source), self._shape(node)
        if len(before) == 1 and after == (*before, 1, 1):
            return self.values[source]  # a vector by another name
        if len(after) != 1 or after[0] != torch.Size(before).numel():
            raise UnsupportedError(f"a reshape from {before} to {after}")
        number = self._plain(source)
        return self._add(Flatten(node.name, (number,), after))

    def linear(self, node: fx.Node, a: dict[str, Any]) -> _Value:
        weight = self._tensor(a["weight"])
        assert weight is not None
        if len(self._shape(a["input"])) != 1:
            raise UnsupportedError("a linear layer on maps")
        name = self.names[a["weight"].name].removesuffix(".weight")
        bias = self._tensor(a["bias"])
        inputs = (self._plain(a["input"]),)
        return self._add(Linear(name, inputs, self._shape(node), weight=weight, bias=bias))

    def pad(self, _: fx.Node, a: dict[str, Any]) -> _Value:
        amounts = [*a["pad"], 0, 0][:4]
        value = a.get("value") or 0
        if (
            a.get("mode", "constant") != "constant"
            or value
            or len(a["pad"]) > 4
            or min(amounts) < 0
        ):
            raise UnsupportedError("a padding other than of zeros around the map")
        left, right, top, bottom = amounts
        return _Value(self._plain(a["self"]), (top, left, bottom, right))

    def same(self, _: fx.Node, a: dict[str, Any]) -> _Value:
        if a.get("train"):
            raise UnsupportedError("dropout in training mode")
        return self.values[a["self"] if "self" in a else a["input"]]


_HANDLERS: dict[str, Callable[[_Capture, fx.Node, dict[str, Any]], _Value]] = {
    **{
        name: getattr(_Capture, name)
        for name in (
            *("conv2d", "batch_norm", "relu", "relu6", "hardtanh", "max_pool2d", "avg_pool2d"),
            *("adaptive_avg_pool2d", "mean", "add", "cat", "flatten", "linear", "pad", "mul"),
        )
    },
    "view": _Capture.flatten,
    "reshape": _Capture.flatten,
    "constant_pad_nd": _Capture.pad,
    "concat": _Capture.cat,
    "concatenate": _Capture.cat,
    **{name: _Capture._elementwise for name in FUNCTIONS if not name.startswith(("relu", "gelu_"))},
    **dict.fromkeys(("dropout", "feature_dropout", "clone", "contiguous", "alias"), _Capture.same),
}
