"""Embeddings, LSTM and GRU."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from billhook.inference.graph.capture.atoms import Atoms, atoms_of, expand, size_of
from billhook.inference.graph.capture.products import linear_layer
from billhook.inference.graph.capture.shapes import joined, selected, sliced
from billhook.inference.graph.capture.trace import Arguments, Trace, Value, constant, handles
from billhook.inference.graph.ops import Op, UnsupportedError
from billhook.inference.graph.sequence import Embed, Recurrent

__all__: list[str] = []


@handles("embedding")
def embedding(trace: Trace, node: fx.Node, a: Arguments) -> Value:
    table, indices = trace.weight(a["weight"]), trace.value(a["indices"])
    assert table is not None
    places = trace.features(indices)
    number = trace.arrange(indices, (places,))
    rows = constant(table.unsqueeze(0))
    features = atoms_of(table.shape[1])
    source = trace.arrange(rows, tuple(expand(dim) for dim in rows.dims))
    shape = (table.shape[1], 1, size_of(places)) if places else (table.shape[1],)
    axes = (features, (), places) if places else (features,)
    op = Embed(node.name, (number, source), shape)
    return trace.emit(op, axes, [*indices.dims, features])


class _Layers:
    """The layers of nn.LSTM or nn.GRU, one operation for each direction of each."""

    def __init__(self, trace: Trace, node: fx.Node, a: Arguments, cell: str) -> None:
        self.trace, self.node, self.cell = trace, node, cell
        self.directions = 2 if a["bidirectional"] else 1
        self.layers, self.biases = a["num_layers"], a["has_biases"]
        self.params: list[fx.Node] = list(a["params"])
        each = 4 if self.biases else 2
        if len(self.params) != each * self.layers * self.directions:
            raise UnsupportedError("an LSTM with proj_size")
        if a["train"]:
            raise UnsupportedError("a recurrent layer in training mode")
        self.each = each
        self.wants_cells = cell == "lstm" and any(
            user.args[1] == 2 for user in node.users if len(user.args) == 2
        )

    def run(self, x: Value, states: Sequence[Value | None]) -> tuple[Value, ...]:
        """The outputs (N, T, features) and the last states, each (layers, N, units)."""
        last: list[list[Value]] = [[] for _ in states]
        for layer in range(self.layers):
            made = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                y, ends = self._direction(x, index, [self._first(s, index) for s in states])
                made.append(y)
                for own, end in zip(last, ends, strict=True):
                    own.append(end)
            x = made[0] if len(made) == 1 else joined(self.trace, made, 2)
        return (x, *(joined(self.trace, own, 0) for own in last))

    def _first(self, state: Value | None, index: int) -> Value | None:
        """A direction's first state (N, units)."""
        return None if state is None else selected(self.trace, state, 0, index)

    def _direction(
        self, x: Value, index: int, states: Sequence[Value | None]
    ) -> tuple[Value, list[Value]]:
        trace = self.trace
        nodes = self.params[index * self.each : (index + 1) * self.each]
        w_ih, w_hh = trace.weight(nodes[0]), trace.weight(nodes[1])
        assert w_ih is not None
        assert w_hh is not None
        of_input, of_state = self._biases(nodes)
        gates = linear_layer(trace, self._name(nodes[0]), x, w_ih, of_input)
        inputs = [gates.number]
        if any(state is not None for state in states):
            inputs += [self._vector(state, w_hh.shape[1]) for state in states]
        units, time = atoms_of(w_hh.shape[1]), expand(x.dims[1])
        both = self.wants_cells
        made = size_of(units) * (1 + both)
        shape = (made, 1, size_of(time)) if time else (made,)
        op: Op = Recurrent(
            self._name(nodes[1]),
            tuple(inputs),
            shape,
            weight=w_hh,
            bias=of_state,
            cell=self.cell,
            reverse=index % self.directions == 1,
            started=len(inputs) > 1,
            cells=both,
        )
        return self._results(op, units, time, x.dims[:2], bool(index % self.directions))

    def _results(
        self, op: Op, units: Atoms, time: Atoms, dims: Sequence[Atoms], reverse: bool
    ) -> tuple[Value, list[Value]]:
        """What is made for each time step, and at the last one."""
        trace, count = self.trace, size_of(units)
        whole = op.shape[0]
        features = units if whole == count else atoms_of(whole)
        axes = (features, (), time) if time else (features,)
        made = trace.emit(op, axes, [*dims, features])
        parts = [sliced(trace, made, 2, k * count, count) for k in range(whole // count)]
        end = 0 if reverse else size_of(time) - 1
        ends = []
        for part in parts:
            last = sliced(trace, part, 1, end, 1)
            ends.append(replace(last, dims=((), last.dims[0], last.dims[2])))
        if self.cell == "lstm" and len(ends) == 1:
            ends.append(ends[0])  # of the cells, which nothing reads
        return parts[0], ends

    def _biases(self, nodes: Sequence[fx.Node]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What is added to the input's gates, and to the state's: in a GRU both have to be there,
        one of them is multiplied by a gate."""
        if not self.biases:
            return None, None
        first, second = self.trace.weight(nodes[2]), self.trace.weight(nodes[3])
        assert first is not None
        assert second is not None
        return (first + second, None) if self.cell == "lstm" else (first, second)

    def _name(self, node: fx.Node) -> str:
        return str(self.trace.values[node].name or node.name)

    def _vector(self, state: Value | None, units: int) -> int:
        value = constant(torch.zeros(units)) if state is None else state
        return self.trace.arrange(value, (self.trace.features(value),))


def _states(trace: Trace, given: Sequence[Any]) -> list[Value | None]:
    """First states, None for zeros."""
    states: list[Value | None] = []
    for node in given:
        value = trace.value(node)
        known = value.constant
        if known is not None and bool((known == 0).all()):
            states.append(None)
            continue
        states.append(trace.one_sample(value, [(), (trace.batch,), ()]))
    return states


def _sequence(trace: Trace, node: fx.Node, a: Arguments, cell: str, states: list[Any]) -> Any:
    value = trace.value(a["input"])
    if len(value.dims) != 3:
        raise UnsupportedError("a recurrent layer on other than (N, T, features)")
    first, second, features = value.dims
    by_batch = a["batch_first"]
    x = replace(value, dims=(first, second, features) if by_batch else (second, first, features))
    if expand(x.dims[0]) != (trace.batch,):
        raise UnsupportedError("a recurrent layer whose samples are not one dimension")
    y, *ends = _Layers(trace, node, a, cell).run(x, _states(trace, states))
    if not by_batch:
        y = replace(y, dims=(y.dims[1], y.dims[0], y.dims[2]))
    return (y, *ends)


@handles("lstm")
def lstm(trace: Trace, node: fx.Node, a: Arguments) -> Any:
    if "data" in a:
        raise UnsupportedError("an LSTM on packed sequences")
    return _sequence(trace, node, a, "lstm", a["hx"])


@handles("gru")
def gru(trace: Trace, node: fx.Node, a: Arguments) -> Any:
    if "data" in a:
        raise UnsupportedError("a GRU on packed sequences")
    return _sequence(trace, node, a, "gru", [a["hx"]])
