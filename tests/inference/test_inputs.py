"""Inputs that are laid out otherwise, or that no program takes: the right answer or an error."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from billhook.errors import ConfigurationError
from billhook.inference import CompiledModel, compile, kernels

from .test_compile import CNNS, Tagger, forced, pruned, relative_error
from .test_linear_kernels import torch_threads

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "network": (CNNS["residual"][0], (2, 3, 24, 24)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ELU()), (2, 3, 9, 7)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 3), (2, 3, 9)),
    "linear": (lambda: nn.Linear(12, 8), (2, 12)),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), (2, 5, 12)),
    "lstm": (lambda: nn.LSTM(12, 8, batch_first=True), (2, 5, 12)),
    "gru": (lambda: nn.GRU(12, 8, batch_first=True), (2, 5, 12)),
}


def compiled(name: str) -> tuple[nn.Module, CompiledModel, torch.Tensor]:
    make, shape = LAYERS[name]
    model, x = pruned(make(), 0.5), torch.randn(shape)
    return model, forced(model, x), x


def first(output: Any) -> torch.Tensor:
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


def strided(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, -1)[..., ::2]


FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "every second": strided,
    "expanded": lambda x: x[:1].expand_as(x),
    "flipped": lambda x: x.flip(0),
    "negative bit": torch._neg_view,
    "parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
    "no samples": lambda x: x[:0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_any_layout_gives_the_right_answer(name: str, form: str) -> None:
    model, fast, x = compiled(name)
    x = FORMS[form](x)
    with torch.no_grad():
        wanted, given = first(model(x)), first(fast(x))
    assert given.shape == wanted.shape
    if len(x):
        assert relative_error(given, wanted) <= 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_other_types_places_and_layouts_are_errors(name: str) -> None:
    _, fast, x = compiled(name)
    bad: list[Any] = [x.double(), x.half(), x.to(torch.int64), x.to(torch.complex64)]
    bad += [x.to("meta"), x.to_sparse(), x.numpy(), x.clone().requires_grad_()]
    for value in bad:
        # Ours, except where torch has the input before any sparse layer does.
        with pytest.raises((ConfigurationError, AttributeError, RuntimeError, TypeError)):
            fast(value)
    with torch.no_grad():
        fast(x.clone().requires_grad_())


def _tangent(fast: CompiledModel, x: torch.Tensor) -> Any:
    with forward_ad.dual_level():
        return fast(forward_ad.make_dual(x, torch.ones_like(x)))


def _freed(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


WATCHED: dict[str, Callable[[CompiledModel, torch.Tensor], Any]] = {
    "vmap": lambda fast, x: torch.vmap(fast)(torch.stack([x, x])),
    "jvp": lambda fast, x: torch.func.jvp(fast, (x,), (x,)),
    "jacfwd": lambda fast, x: torch.func.jacfwd(fast)(x),
    "grad": lambda fast, x: torch.func.grad(lambda x: first(fast(x)).sum())(x),
    "functionalize": lambda fast, x: torch.func.functionalize(fast)(x),
    "tangent": _tangent,
    "make_fx": lambda fast, x: make_fx(fast)(x),
    "freed": lambda fast, x: fast(_freed(x)),
    "zero tensor": lambda fast, x: fast(torch._efficientzerotensor(x.shape)),
}


@pytest.mark.parametrize("how", WATCHED)
@pytest.mark.parametrize("name", LAYERS)
def test_what_native_code_cannot_see_is_an_error(name: str, how: str) -> None:
    """Else a tangent would be lost, a graph hold empty memory, or a null pointer be followed."""
    _, fast, x = compiled(name)
    with pytest.raises(ConfigurationError):
        WATCHED[how](fast, x)
    assert torch.isfinite(first(fast(x))).all()


@pytest.mark.parametrize("name", LAYERS)
def test_other_shapes_are_errors(name: str) -> None:
    _, fast, x = compiled(name)
    wrong = [torch.cat([x, x], 1 if "conv" in name or name == "network" else -1), x[None, None]]
    wrong += [x.flatten()[0], x.flatten()]
    for value in wrong:
        if name == "linear" and value.dim() == 4:
            assert fast(value).shape == (1, 1, 2, 8)
            continue
        with pytest.raises((ConfigurationError, AssertionError, RuntimeError)):
            fast(value)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_default_type_and_device_change_nothing(name: str) -> None:
    _, fast, x = compiled(name)
    wanted = first(fast(x))
    with default_dtype(torch.float64), torch.device("meta"):
        assert torch.equal(first(fast(x)), wanted)
        assert torch.equal(first(fast(x[:1])), first(fast(x[:1])))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_packed_sequences_through_a_compiled_model(name: str) -> None:
    model, fast, x = compiled(name)
    packed = pack_padded_sequence(x, torch.tensor([2, 5]), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        wanted, given = model(packed)[0], fast(packed)[0]
    assert isinstance(given, PackedSequence)
    assert relative_error(given.data, wanted.data) <= 1e-5
    with pytest.raises(ConfigurationError, match="float64"):
        fast(packed.to(torch.float64))
    with pytest.raises(ConfigurationError, match="requires a gradient"):
        fast(PackedSequence(x[0].clone().requires_grad_(), torch.ones(5, dtype=torch.long)))


def test_a_model_of_replaced_layers_may_be_called_from_several_threads() -> None:
    fast = forced(pruned(Tagger(), 0.5), (torch.zeros(2, 4, dtype=torch.long),))
    model, program, x = compiled("conv2d")
    layers = {name: {"kernel": "spmm"} for name in program.plan.layers}
    plan = {"version": 1, "mode": "modules", "isa": "portable", "layers": layers}
    conv = compile(model, x, plan=plan)
    rng = np.random.default_rng(0)
    shapes = [(int(n), int(t)) for n, t in rng.integers(1, 9, (40, 2))]
    words = [torch.randint(20, shape) for shape in shapes]
    images = [torch.randn(n, 3, 3 + t, 8) for n, t in shapes]  # more sizes than programs are kept
    for threads in (1, 2):
        with torch_threads(threads), ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(fast, words))
            maps = list(pool.map(conv, images))
            for x, given in zip(words, texts, strict=True):
                assert torch.equal(given["logits"], fast(x)["logits"])
            for x, given in zip(images, maps, strict=True):
                assert torch.equal(given, conv(x))


class Mapped(nn.Module):
    """Calls one layer under vmap, and one as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.outer(torch.func.vmap(self.inner)(x))
        return y


def test_a_layer_that_is_called_under_a_transform_stays_dense_and_says_so() -> None:
    model, x = pruned(Mapped(), 0.5), torch.randn(4, 64)
    fast = compile(model, x)
    assert torch.allclose(fast(x), model(x), atol=1e-5)
    reasons = {layer.name: layer.reason for layer in fast.report().layers}
    assert "under a transform of torch.func" in reasons["inner"]
    assert "transform" not in reasons["outer"]


def test_a_layer_without_inputs_compiles() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the empty weight
        model = nn.Linear(0, 8).eval()
    fast = compile(model, torch.empty(3, 0))
    assert torch.equal(fast(torch.empty(3, 0)), model(torch.empty(3, 0)))
