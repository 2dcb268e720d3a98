"""Compiled models of replaced layers in files: with the model's code, the same bit for bit."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import billhook
from billhook.errors import CompileError, ConfigurationError, FormatError
from billhook.inference import CompiledModel, Plan, compile, kernels
from billhook.models import gnmt, ptb_lstm

from .test_compile import Tagger, forced, pruned
from .test_layers import Speech

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


class Tied(nn.Module):
    """A table that is a layer too, a buffer outside the state_dict, and a shared layer."""

    def __init__(self, width: int = 24, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, width)
        self.out = nn.Linear(width, 30)
        self.out.weight = self.embedding.weight
        self.inner = nn.Linear(width, width)
        self.again = self.inner
        self.norm = norm(width)
        self.register_buffer("scale", torch.arange(1.0, width + 1), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.again(self.inner(self.embedding(tokens))) * self.scale)
        return self.out(x)  # type: ignore[no-any-return]


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(20, shape)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "tagger": (Tagger, lambda: (tokens(2, 4),)),
    "ptb": (lambda: ptb_lstm(hidden=16, vocab=30), lambda: (tokens(2, 7),)),
    "gnmt": (
        lambda: gnmt(units=16, source_vocab=30, target_vocab=30),
        lambda: (tokens(2, 5), torch.tensor([5, 3]), tokens(2, 6)),
    ),
    "speech": (
        Speech,
        lambda: (torch.randn(2, 12, 9), torch.tensor([[False] * 9, [False] * 5 + [True] * 4])),
    ),
    "tied": (Tied, lambda: (tokens(3, 4),)),
    "layer": (lambda: nn.GRU(8, 8), lambda: (torch.randn(4, 2, 8),)),
}


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def same(a: Any, b: Any) -> bool:
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_gives_the_same_bits(name: str, mode: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model, x = pruned(make()), inputs()
    if mode == "dense":
        fast = compile(model, x, plan=Plan("dense", "portable"))
    else:
        fast = forced(model, x)
        assert fast.plan.layers
    path = tmp_path / "model.billhook.safetensors"
    billhook.save(fast, path)
    for architecture in (on_meta(make), make()):
        before = {n: t.clone() for n, t in architecture.state_dict().items() if not t.is_meta}
        again = billhook.load_compiled(path, architecture)
        assert again.plan == fast.plan
        assert same(again(*x), fast(*x))
        assert all(torch.equal(architecture.state_dict()[n], t) for n, t in before.items())
        billhook.save(again, tmp_path / "copy.billhook.safetensors")
        assert (tmp_path / "copy.billhook.safetensors").read_bytes() == path.read_bytes()


def test_some_layers_dense_and_tied_tensors_stay_tied(tmp_path: Path) -> None:
    model, path = pruned(Tied()), tmp_path / "model.billhook.safetensors"
    layers = {"inner": {"kernel": "sparse"}, "out": {"kernel": "dense"}}
    plan = {"version": 1, "mode": "modules", "isa": "portable", "layers": layers}
    fast = compile(model, tokens(2, 3), plan=plan)
    billhook.save(fast, path)
    again = billhook.load_compiled(path, on_meta(Tied))
    assert again.program.out.weight is again.program.embedding.weight  # type: ignore[union-attr]
    assert again.program.inner is again.program.again
    x = tokens(3, 4)
    assert same(again(x), fast(x))


def saved(model: nn.Module, x: Any, path: Path) -> CompiledModel:
    fast = forced(pruned(model), x)
    billhook.save(fast, path)
    return fast


def test_another_model_is_an_error_that_names_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "model.billhook.safetensors"
    saved(Tied(), tokens(2, 3), path)
    with pytest.raises(ConfigurationError, match=r"load_compiled\(path, model\)"):
        billhook.load_compiled(path)
    with pytest.raises(CompileError, match="'embedding''s embedding_dim is 16.*compiled for 24"):
        billhook.load_compiled(path, on_meta(lambda: Tied(16)))
    with pytest.raises(CompileError, match="module 'norm''s kind is Identity.*for LayerNorm"):
        billhook.load_compiled(path, on_meta(lambda: Tied(norm=nn.Identity)))
    more = on_meta(Tied)
    more.extra = nn.ReLU()
    with pytest.raises(CompileError, match="has module 'extra'"):
        billhook.load_compiled(path, more)
    parameter = on_meta(Tied)
    parameter.extra = nn.Parameter(torch.ones(3))
    with pytest.raises(CompileError, match="the model has 'extra' and the file does not"):
        billhook.load_compiled(path, parameter)
    half = on_meta(Tied)
    half.norm.half()
    with pytest.raises(FormatError, match=r"'model.norm.weight' is F32 \[24\], not F16"):
        billhook.load_compiled(path, half)


def test_settings_that_no_shape_shows_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "model.billhook.safetensors"
    saved(nn.MultiheadAttention(8, 2), (torch.randn(3, 1, 8),) * 3, path)
    with pytest.raises(CompileError, match="num_heads is 4, the program was compiled for 2"):
        billhook.load_compiled(path, nn.MultiheadAttention(8, 4))
    saved(nn.LSTM(8, 8), torch.randn(3, 1, 8), path)
    with pytest.raises(CompileError, match="batch_first is True, the program was compiled for Fal"):
        billhook.load_compiled(path, nn.LSTM(8, 8, batch_first=True))


def test_a_tensor_that_is_a_plain_attribute_has_no_value_on_meta(tmp_path: Path) -> None:
    class Plain(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.tables = [torch.ones(4)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.tables[0]

    path = tmp_path / "model.billhook.safetensors"
    fast = compile(Plain().eval(), torch.ones(1, 4), plan=Plan("dense", "portable"))
    billhook.save(fast, path)
    with pytest.raises(CompileError, match="tables is neither a parameter nor a buffer"):
        billhook.load_compiled(path, on_meta(Plain))
    assert same(billhook.load_compiled(path, Plain())(torch.ones(1, 4)), fast(torch.ones(1, 4)))


def second(value: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Puts a value in the second place."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        numbers = tensor.to(torch.int64)
        numbers[1] = value
        return numbers.to(tensor.dtype)

    return change


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("column", second(16)),
        ("column", torch.zeros_like),
        ("row_ptr", second(10_000)),
        ("row_ptr", second(-1)),
        ("row_ptr", lambda t: t[:-1]),
        ("value", lambda t: t[:-1]),
        ("value", lambda t: t.double()),
        ("value", lambda t: torch.ones(64 * 16 + 1)),
        ("column", lambda t: t.int()),
    ],
)
def test_nonzeros_that_do_not_fit_are_refused(
    part: str, change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    fast = forced(pruned(nn.LSTM(16, 16), 0.5), torch.randn(3, 1, 16))
    tensors = dict(fast.state_dict())
    name = f"model.weight_ih_l0.{part}"
    tensors[name] = change(tensors[name])
    billhook.save(tensors, tmp_path / "bad.billhook.safetensors")
    with pytest.raises(FormatError, match="weight_ih_l0"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors", nn.LSTM(16, 16))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: {**text, "version": 7},
        lambda text: {**text, "plan": {**text["plan"], "isa": "mystery"}},
        lambda text: {**text, "plan": {**text["plan"], "layers": {"": {"kernel": "warp"}}}},
        lambda text: {**text, "plan": {**text["plan"], "layers": {"": {"vectors": 10**9}}}},
        lambda text: {**text, "plan": {**text["plan"], "layers": {"": 3}}},
        lambda text: {**text, "plan": 3},
        lambda text: {"version": 1},
        lambda text: {key: text[key] for key in ("version", "plan")},
        lambda text: {**text, "architecture": 3},
        lambda text: {**text, "architecture": {"": 3}},
        lambda text: [text],
    ],
)
def test_a_text_that_makes_no_sense_is_refused(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    tensors = dict(forced(pruned(nn.LSTM(8, 8), 0.5), torch.randn(3, 1, 8)).state_dict())
    text = json.dumps(change(json.loads(bytes(tensors["program"].numpy())))).encode()
    tensors["program"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    billhook.save(tensors, tmp_path / "bad.billhook.safetensors")
    with pytest.raises(FormatError, match="cannot be read"):
        billhook.load_compiled(tmp_path / "bad.billhook.safetensors", nn.LSTM(8, 8))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")
def test_starting_takes_little_more_memory_than_the_program(tmp_path: Path) -> None:
    path = tmp_path / "program.billhook.safetensors"
    billhook.save(forced(pruned(nn.LSTM(1200, 1200, 2)), torch.randn(9, 1, 1200)), path)
    script = Path(__file__).parents[2] / "benchmarks" / "start.py"
    model = "torch.nn:LSTM(input_size=1200, hidden_size=1200, num_layers=2)"
    output = subprocess.run(
        [sys.executable, script, path, model, "9,1,1200"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = json.loads(output)
    assert found["packed"] > 5
    assert found["peak"] <= found["limit"], found
