"""Weights, ranges and inputs of programs in 8 bits for the property tests."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from billhook.inference.int8.ops import (
    INPUT,
    Flatten,
    Mean,
    Multiply,
    Op,
    Program,
    Range,
    Select,
    Table,
)

GROUPS = (1, 4, 8, 16)


@st.composite
def weights(draw: st.DrawFn, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """s8 of any sparsity, in blocks or not, some rows empty, some of the largest magnitude."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    rows, columns = shape[0], int(np.prod(shape[1:]))
    group, width = draw(st.sampled_from(GROUPS)), draw(st.sampled_from([1, 4]))
    blocks = rng.random((-(-rows // group), -(-columns // width))) < density
    mask = np.kron(blocks, np.ones((group, width), bool))[:rows, :columns]
    value = rng.integers(-127, 128, (rows, columns))
    if draw(st.booleans()):
        value = np.sign(value) * 127
    if draw(st.booleans()):
        mask[rng.random(rows) < 0.3] = False
    result: NDArray[np.int8] = (value * mask).astype(np.int8).reshape(shape)
    return result


@st.composite
def layer(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """A weight, its biases and its scales; some results saturate, some do not."""
    weight = draw(weights(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    terms = max(1, int(np.count_nonzero(weight)) // shape[0])
    scale = rng.random(shape[0]) * draw(st.sampled_from([0.01, 1.0, 8.0])) / np.sqrt(terms) / 40
    return {
        "weight": weight,
        "bias": rng.integers(-20_000, 20_000, shape[0]).astype(np.int32),
        "scale": scale.astype(np.float32),
    }


def ranges() -> st.SearchStrategy[Range]:
    """Steps near that of inputs of normal numbers, any zero."""
    return st.builds(Range, st.sampled_from([0.004, 0.02, 0.1]), st.integers(0, 255))


@st.composite
def elements(draw: st.DrawFn) -> tuple[Program, NDArray[np.float32]]:
    """A program of tables, products and orders of channels, on maps and vectors, and its input."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 70)), draw(st.integers(1, 9)), draw(st.integers(1, 40)))
    table = rng.integers(0, 256, 256).astype(np.uint8)
    ops: list[Op] = [Table("table", (INPUT,), shape, draw(ranges()), table)]
    if draw(st.booleans()):
        ops.append(
            Multiply("square", (0, draw(st.sampled_from([INPUT, 0]))), shape, draw(ranges()))
        )
    before = len(ops) - 1
    if draw(st.booleans()):
        ops.append(Mean("mean", (before,), shape[:1], draw(ranges())))
        gate = rng.permutation(256).astype(np.uint8)
        ops.append(Table("gate", (len(ops) - 1,), shape[:1], draw(ranges()), gate))
        ops.append(Multiply("excited", (before, len(ops) - 1), shape, draw(ranges())))
    made = draw(st.integers(1, 70))
    order = rng.integers(0, shape[0], made).astype(np.int32)
    last = ops[-1]
    ops.append(Select("order", (len(ops) - 1,), (made, *shape[1:]), last.range, order))
    if draw(st.booleans()):
        features = made * shape[1] * shape[2]
        ops.append(Flatten("flat", (len(ops) - 1,), (features,), last.range))
        ops.append(Table("last", (len(ops) - 1,), (features,), draw(ranges()), table[::-1].copy()))
    x = (rng.standard_normal((draw(st.integers(1, 2)), *shape)) * 3).astype(np.float32)
    return Program(shape, ops[-1].shape, draw(ranges()), tuple(ops)), x
