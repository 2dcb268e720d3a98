"""A weight that runs is held as its kernels read it, and its rows are made of that, bit for bit."""

import copy
import gc
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import billhook
from billhook.inference import Choice, CompiledModel, Plan, isa, kernels
from billhook.inference.layers.attention import Stacked
from billhook.inference.layers.base import SparseLayer
from billhook.inference.layers.linear import SparseLinear, SparseMatrix
from billhook.inference.layers.transposed_linear import Transposed, transposed
from billhook.inference.network.network import Network
from billhook.inference.weights.csr import Csr, SparseWeight, narrow

from .test_compile import CNNS, forced, pruned

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")

# Zeros that a file may hold, a NaN with a payload, the smallest number: each must come back.
ODD = np.array([0x80000000, 0, 0x7FC12345, 1, 0xFF800000], np.uint32).view(np.float32)


@st.composite
def weights(draw: st.DrawFn, rows: st.SearchStrategy[int]) -> SparseWeight:
    """Rows of very different lengths, or eight by eight alike; some values are zeros or NaN."""
    height = draw(rows)
    width = draw(st.sampled_from([1, 5, 64, 700, 1500, *([66_000] if height <= 8 else [])]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])) * rng.random(
        (height, 1)
    )
    if height % 8 == 0 and draw(st.booleans()):
        mask = mask[::8].repeat(8, 0)
    row, column = np.nonzero(mask)
    value = rng.standard_normal(len(row)).astype(np.float32)
    odd = rng.random(len(row)) < 0.2
    value[odd] = rng.choice(ODD, int(odd.sum()))
    row_ptr = np.searchsorted(row, np.arange(height + 1)).astype(np.int32)
    return SparseWeight(
        (height, width), Csr((height, width), row_ptr, narrow(column, width), value)
    )


def bits(csr: Csr) -> tuple[Any, ...]:
    """All of it, NaN and the signs of zeros included."""
    arrays = (csr.row_ptr, csr.column, csr.value)
    return csr.shape, [a.dtype for a in arrays], [a.tobytes() for a in arrays]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_each_packing_gives_the_rows_back(data: st.DataObject) -> None:
    units = data.draw(st.booleans())
    heights = st.sampled_from([4, 32, 128, 132, 300] if units else [1, 7, 8, 16, 128, 136, 300])
    weight = data.draw(weights(heights))
    wanted = bits(weight.csr)
    matrix = SparseMatrix(weight, None, data.draw(st.sampled_from([0, 1, 2])))
    packings: list[Callable[[], object]] = [matrix.blocks]
    if weight.shape[1] < 2**16 - 1:
        packings.append(matrix.lanes)
    if units:
        packings.append(matrix.gates)
    for pack in data.draw(st.permutations(packings)):
        packed = pack()
        assert weight.held is packed
        assert bits(weight.csr) == wanted
        assert bits(pickle.loads(pickle.dumps(weight)).csr) == wanted


@settings(max_examples=40, deadline=None)
@given(weights(st.sampled_from([3, 24, 48, 300])))
def test_parts_and_transposes_give_the_whole_back(weight: SparseWeight) -> None:
    wanted = bits(weight.csr)
    stacked = Stacked.of(weight, 3)
    for part in stacked.parts[:2]:
        SparseMatrix(part, None, 0).blocks()
    turned = SparseWeight(weight.shape[::-1], transposed(weight.csr))
    if turned.shape[1] < 2**16 - 1:
        SparseMatrix(turned, None, 0).lanes()
    for other in (stacked, Transposed(turned)):
        assert (other.shape, other.nonzeros) == (weight.shape, weight.nonzeros)
        assert bits(other.csr) == wanted
        assert bits(copy.deepcopy(other).csr) == wanted


def gpt_layer(columns: int, rows: int) -> nn.Module:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    return conv1d(columns, rows)  # type: ignore[no-any-return]


def of_kernel(kernel: str, make: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, Any]]:
    def made() -> tuple[nn.Module, Any]:
        model = pruned(make())
        return model, Plan("modules", isa.best("fp32"), {"": Choice(kernel, 2)})

    return made


MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], list[tuple[int, ...]]]] = {
    "linear": (of_kernel("sparse", lambda: nn.Linear(70, 50, False)), [(1, 70), (20, 70)]),
    "wide": (of_kernel("sparse", lambda: nn.Linear(66_000, 3, False)), [(1, 66_000), (2, 66_000)]),
    "conv1d": (of_kernel("sparse", lambda: gpt_layer(24, 40)), [(1, 40), (3, 40)]),
    "lstm": (
        of_kernel("sparse", lambda: nn.LSTM(9, 40, 2, bias=False, bidirectional=True)),
        [(3, 1, 9), (3, 4, 9)],
    ),
    "projected": (
        of_kernel("sparse", lambda: nn.LSTM(9, 40, bias=False, proj_size=7)),
        [(3, 1, 9), (3, 4, 9)],
    ),
    "gru": (of_kernel("sparse", lambda: nn.GRU(9, 40, bias=False)), [(3, 1, 9), (3, 4, 9)]),
    "planes": (
        of_kernel("spmm", lambda: nn.Conv2d(5, 6, 3, bias=False)),
        [(1, 5, 9, 9), (2, 5, 7, 12)],
    ),
    "panels": (
        of_kernel("spmm_packed", lambda: nn.Conv2d(5, 6, 3, bias=False)),
        [(1, 5, 9, 9), (2, 5, 7, 12)],
    ),
    "depthwise": (
        of_kernel("depthwise", lambda: nn.Conv2d(6, 6, 3, bias=False, groups=6)),
        [(1, 6, 9, 9), (2, 6, 7, 12)],
    ),
    "network": (
        lambda: (pruned(CNNS["residual"][0]()), None),
        [(1, *CNNS["residual"][1]), (3, *CNNS["residual"][1])],
    ),
}


def compiled(name: str) -> tuple[nn.Module, CompiledModel, list[torch.Tensor]]:
    make, shapes = MODELS[name]
    model, plan = make()
    inputs = [torch.randn(shape) for shape in shapes]
    if plan is None:
        return model, forced(model, inputs[0]), inputs
    return model, billhook.compile(model, inputs[0], plan=plan), inputs


def outputs(model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [torch.utils._pytree.tree_leaves(model(x))[0] for x in inputs]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_copied_after_any_run_the_bits_are_the_same(name: str, tmp_path: Path) -> None:
    model, fast, inputs = compiled(name)
    path = tmp_path / "program.billhook.safetensors"
    for run in ([], inputs[:1], inputs[1:]):
        outputs(fast, run)
        billhook.save(fast, path)
        for again in (
            billhook.load_compiled(path, model),
            copy.deepcopy(fast),
            pickle.loads(pickle.dumps(fast)),
        ):
            assert all(map(torch.equal, outputs(again, inputs), outputs(fast, inputs)))
    for layer in fast.modules():
        for part, weight in getattr(layer, "weights", {}).items():
            value = getattr(layer, part)
            assert torch.equal(value + 0, dict(model.named_parameters())[part])
            assert isinstance(weight, torch.Tensor) or weight.nonzeros == int(value.count_nonzero())


def arrays_of(found: Any, seen: dict[int, Any]) -> list[np.ndarray]:
    """Every array of numbers that can be reached, by its owner."""
    if id(found) in seen or callable(getattr(found, "acquire", None)):
        return []
    seen[id(found)] = found
    if isinstance(found, np.ndarray):
        return (
            [found]
            if found.base is None or not isinstance(found.base, np.ndarray)
            else (arrays_of(found.base, seen))
        )
    if isinstance(found, dict):
        left = [value for key, value in found.items() if key not in ("_arrays", "_pool")]
    elif isinstance(found, list | tuple):
        left = list(found)
    else:
        left = [getattr(found, "__dict__", {})]
    return [array for value in left for array in arrays_of(value, seen)]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "conv1d"])
def test_the_bytes_are_those_that_are_there(name: str) -> None:
    _, fast, inputs = compiled(name)
    for run in ([], inputs[:1], inputs[1:]):
        outputs(fast, run)
        gc.collect()
        program = fast.program
        own = 0
        if isinstance(program, Network):  # its biases are tensors of the graph
            own = program.constants.nbytes
        arrays = arrays_of(program, {})
        assert own + sum(array.nbytes for array in arrays) == fast.nbytes


def held(weight: Any) -> list[Any]:
    """The layouts in which a layer's weight is held; of a bias none."""
    if isinstance(weight, torch.Tensor):
        return []
    if isinstance(weight, Stacked):
        return [part.held for part in weight.parts]
    return [weight.of.held if isinstance(weight, Transposed) else weight.held]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ["linear", "conv1d", "lstm", "projected", "gru", "panels"])
def test_what_ran_holds_no_rows(name: str) -> None:
    _, fast, inputs = compiled(name)
    for x in inputs:
        outputs(fast, [x])
        weights = [m.weights.values() for m in fast.modules() if isinstance(m, SparseLayer)]
        layouts = [each for own in weights for weight in own for each in held(weight)]
        assert layouts
        assert not any(isinstance(each, Csr) for each in layouts)


def test_attention_holds_no_rows() -> None:
    dense = nn.MultiheadAttention(16, 2)
    pruned(dense)
    plan = Plan("modules", isa.best("fp32"), {"": Choice("sparse")})
    x = torch.randn(5, 1, 16)
    fast = billhook.compile(dense, (x, x, x), plan=plan)
    y = fast(x, x, x)[0]
    layer: Any = fast.program
    assert isinstance(layer.weights["in_proj_weight"], Stacked)
    assert not any(isinstance(each, Csr) for each in held(layer.weights["in_proj_weight"]))
    assert torch.equal(layer.in_proj_weight.clone(), dense.in_proj_weight)
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(again(x, x, x)[0], y)


def test_zeros_that_a_file_holds_are_kept() -> None:
    csr = Csr((2, 3), np.array([0, 2, 3], np.int32), np.array([0, 2, 1], np.uint16), ODD[:3].copy())
    layer = SparseLinear(SparseWeight((2, 3), csr), None, 0)
    for samples in (1, 2):
        layer(torch.ones(samples, 3))
        assert layer.weight.packed.nonzeros == 3
        found = layer.weight.clone().numpy().view(np.uint32)
        assert found.tolist() == [[0x80000000, 0, 0], [0, 0x7FC12345, 0]]


def test_threads_may_run_and_read_at_once() -> None:
    dense = nn.Linear(96, 128)
    pruned(dense)
    inputs = [torch.randn(n, 96) for n in (1, 5, 70)]
    wanted = [SparseLinear(dense.weight, dense.bias, kernels.isa())(x) for x in inputs]
    for _ in range(10):
        layer = SparseLinear(dense.weight, dense.bias, kernels.isa())
        with ThreadPoolExecutor(4) as pool:
            ran = [pool.submit(layer, x) for x in inputs]
            read = [pool.submit(torch.clone, layer.weight) for _ in inputs]
        assert all(map(torch.equal, [each.result() for each in ran], wanted))
        assert all(torch.equal(each.result(), dense.weight) for each in read)
