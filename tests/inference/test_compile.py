"""compile: same outputs, a plan that replays bit for bit, errors that say what to do."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.errors import CompileError, ConfigurationError
from billhook.inference import Choice, CompiledModel, Plan, compile, isa, kernels
from billhook.inference.verification import TOLERANCE
from billhook.models import inception_v3, mobilenet_v1, ptb_lstm

native_only = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


def pruned(model: nn.Module, sparsity: float = 0.9) -> nn.Module:
    """In evaluation mode, weights pruned at random, batch norm's statistics not trivial."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def forced(model: nn.Module, example: Any) -> CompiledModel:
    """Compiled with no race: every layer sparse, so that tests do not depend on luck."""
    return compile(model, example, plan=forced_plan(model, example))


def forced_plan(model: nn.Module, example: Any) -> Plan:
    """One program for maps, layer by layer for everything else."""
    from billhook.inference.compiler import _capture
    from billhook.inference.graph import Conv, Layer, UnsupportedError
    from billhook.inference.layers.kinds import candidates, obstacle

    best = isa.best("fp32")
    try:
        if not torch.is_tensor(example) or example.dim() != 4:
            raise UnsupportedError("no maps")
        with torch.autocast("cpu", enabled=False):
            graph, _ = _capture(model, (example,))
    except UnsupportedError:
        layers = {n: m for n, m in candidates(model) if obstacle(m) is None}
        return Plan(
            "modules",
            best,
            {
                n: Choice("spmm" if isinstance(m, nn.Conv1d | nn.Conv2d) else "sparse")
                for n, m in layers.items()
            },
        )
    return Plan(
        "network",
        best,
        {
            op.name: Choice("spmm" if isinstance(op, Conv) else "sparse")
            for op in graph.ops
            if isinstance(op, Layer)
        },
    )


def relative_error(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given - wanted).norm() / wanted.norm())


class Residual(nn.Module):
    """Strides, a residual sum, explicit padding, every kind of pool, nested concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, (1, 5), padding=(0, 2))
        self.c = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.d = nn.Conv2d(16, 6, 1, stride=2)
        self.e = nn.Conv2d(32, 10, 1)
        self.last_norm = nn.BatchNorm2d(30)
        self.fc = nn.Linear(30, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.a(F.pad(x, (0, 1, 0, 1)))))
        y = F.relu6(self.b(x) + self.c(x))
        inner = torch.concat([x, y], 1)
        z = torch.cat(
            [inner, torch.cat([F.avg_pool2d(y, 3, 1, 1), F.max_pool2d(x, 3, 1, 1)], 1)], 1
        )
        d = self.d(inner)
        maps = torch.cat([d, F.max_pool2d(y, 2), d, F.avg_pool2d(self.e(z), 2)], 1)
        return self.fc(F.relu(self.last_norm(maps)).mean((2, 3)))  # type: ignore[no-any-return]


class Excited(nn.Module):
    """Squeeze and excitation as in MobileNetV3 and EfficientNet, and their activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.SiLU())
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.down, self.up = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.narrow = nn.Conv2d(24, 8, 1)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(), nn.Linear(12, 5), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.gelu(self.depthwise(self.wide(x)))
        scale = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.narrow(scale * y)
        channels = self.gate(x.mean((2, 3))).sigmoid()
        x = x * channels.view(len(x), 8, 1, 1) * torch.tanh(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


CNNS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mobilenet": (lambda: mobilenet_v1(width=0.25, num_classes=10), (3, 64, 48)),
    "inception": (lambda: inception_v3(num_classes=10, depth_multiplier=0.1), (3, 75, 91)),
    "residual": (Residual, (3, 24, 24)),
    "excited": (Excited, (3, 18, 14)),
    "whole pool": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.AvgPool2d(99, ceil_mode=True), nn.Flatten(), nn.Linear(4, 3)
        ),
        (3, 9, 8),
    ),
    "words": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, (3, 4), padding="same", dilation=(1, 2)),
            nn.Conv2d(5, 4, 3, padding="valid"),
        ),
        (3, 9, 11),
    ),
    "maps": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU()), (3, 9, 11)),
    "flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(140, 5), nn.ReLU(), nn.Linear(5, 2)
        ),
        (3, 7, 9),
    ),
}


@native_only
@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_a_cnn_becomes_one_program_with_the_same_outputs(name: str, sparsity: float) -> None:
    make, shape = CNNS[name]
    model = pruned(make(), sparsity)
    example = torch.randn(1, *shape)
    fast = forced(model, example)
    assert fast.plan.mode == "network"
    for batch in (1, 3, 0):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            wanted = model(x)
        assert fast(x).shape == wanted.shape
        if batch:
            assert relative_error(fast(x), wanted) <= TOLERANCE


@native_only
@pytest.mark.parametrize("name", ["mobilenet", "linear", "lstm"])
@pytest.mark.parametrize(("sparse_ms", "runs_dense"), [(0.99, True), (0.8, False)])
def test_dense_wins_unless_sparse_is_faster_by_more_than_noise(
    name: str, sparse_ms: float, runs_dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from billhook.inference import compiler
    from billhook.inference.layers import race as modules
    from billhook.inference.network import race as network_race

    def race(candidates: dict[Any, Any]) -> dict[Any, float]:
        dense = ("dense", "torch", "apart")
        return {
            key: 1.0 if getattr(key, "kernel", key) in dense else sparse_ms for key in candidates
        }

    for module in (compiler, modules, network_race):
        monkeypatch.setattr(module, "race", race)
    make, x = {
        "mobilenet": (CNNS["mobilenet"][0], torch.randn(1, *CNNS["mobilenet"][1])),
        "linear": (lambda: nn.Linear(20, 9), torch.randn(1, 20)),
        "lstm": (lambda: nn.LSTM(8, 8), torch.randn(3, 1, 8)),
    }[name]
    compiled = compile(pruned(make(), 0.5), x)
    assert (compiled.plan.mode == "dense") == runs_dense
    assert all((layer.chosen == "dense") == runs_dense for layer in compiled.report().layers)


class Tagger(nn.Module):
    """Embedding, LSTM, attention: no feed-forward CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(32, 5)

    def forward(self, tokens: torch.Tensor, *, scale: float = 1.0) -> dict[str, torch.Tensor]:
        y, _ = self.lstm(self.embed(tokens))
        return {"logits": self.out(self.encoder(y)) * scale}


@native_only
def test_other_models_have_their_layers_replaced_and_take_any_batch_and_length() -> None:
    model = pruned(Tagger())
    fast = forced(model, (torch.zeros(2, 4, dtype=torch.long),))
    assert fast.plan.mode == "modules"
    for shape in ((1, 1), (3, 9), (5, 2)):
        tokens = torch.randint(20, shape)
        with torch.no_grad():
            wanted = model(tokens, scale=2.0)["logits"]
        assert relative_error(fast(tokens, scale=2.0)["logits"], wanted) <= TOLERANCE


@native_only
def test_every_layer_is_reported_with_its_times_and_a_reason() -> None:
    model = pruned(Tagger())
    report = compile(model, (torch.zeros(1, 4, dtype=torch.long),)).report()
    names = {layer.name for layer in report.layers}
    assert {"out", "encoder.layers.0.linear1"} <= names
    assert any(name.startswith("lstm") for name in names)
    assert all(layer.reason for layer in report.layers)
    assert all(name in str(report) for name in names)


def test_a_language_model_keeps_its_signature() -> None:
    model = pruned(ptb_lstm(hidden=16, vocab=30))
    tokens = torch.randint(30, (7, 2))
    fast = compile(model, (tokens,))
    with torch.no_grad():
        wanted, given = model(tokens), fast(tokens)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(given), torch.utils._pytree.tree_leaves(wanted), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


@native_only
def test_one_program_may_be_called_from_several_threads() -> None:
    make, shape = CNNS["residual"]
    fast = forced(pruned(make()), torch.randn(1, *shape))
    inputs = [torch.randn(n, *shape) for n in (1, 2, 3) * 10]
    wanted = [fast(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for y, expected in zip(pool.map(fast, inputs), wanted, strict=True):
            assert torch.equal(y, expected)


def test_without_native_kernels_the_model_runs_dense_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    model = pruned(nn.Sequential(nn.Linear(4, 3)))
    fast = compile(model, torch.ones(1, 4))
    assert fast.plan.mode == "dense"
    assert "no native kernels" in fast.report().reason
    with torch.no_grad():
        assert torch.equal(fast(torch.ones(2, 4)), model(torch.ones(2, 4)))


def linear_plan(**changes: Any) -> dict[str, Any]:
    plan = {
        "version": 1,
        "mode": "modules",
        "isa": "portable",
        "layers": {"0": {"kernel": "sparse", "vectors": 8}},
    }
    return {**plan, **changes}


def test_bad_models_and_plans_are_errors() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.ones(1, 4)
    with pytest.raises(ConfigurationError, match=r"training mode.*model.eval\(\)"):
        compile(model, x)
    with pytest.raises(ConfigurationError, match="float64"):
        compile(nn.Linear(4, 3).double().eval(), x.double())
    with pytest.raises(ConfigurationError, match="float16"):
        compile(model.eval(), x.half())
    with pytest.raises(ConfigurationError, match="meta"):
        compile(nn.Linear(4, 3, device="meta").eval(), x)
    with pytest.raises(ConfigurationError, match="version 7"):
        compile(model, x, plan=linear_plan(version=7))
    with pytest.raises(ConfigurationError, match="'mystery'"):
        compile(model, x, plan=linear_plan(mode="mystery"))
    with pytest.raises(ConfigurationError, match="'warp'"):
        compile(model, x, plan=linear_plan(layers={"0": {"kernel": "warp"}}))


@native_only
def test_a_plan_of_another_model_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    with pytest.raises(CompileError, match="'7'"):
        compile(model, torch.ones(1, 4), plan=linear_plan(layers={"7": {"kernel": "sparse"}}))
    with pytest.raises(CompileError, match="whole network"):
        compile(nn.Bilinear(2, 2, 1).eval(), (torch.ones(1, 2),) * 2, linear_plan(mode="network"))


@native_only
def test_bad_input_is_an_error() -> None:
    make, shape = CNNS["residual"]
    network = forced(pruned(make()), torch.randn(1, *shape))
    with pytest.raises(ConfigurationError, match=r"\(N, 3, 24, 24\)"):
        network(torch.zeros(1, 3, 25, 24))
    with pytest.raises(ConfigurationError, match="float64"):
        network(torch.zeros(1, *shape, dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="inference only"):
        network.train()
    layer = forced(pruned(nn.Sequential(nn.Linear(4, 3))), torch.ones(1, 4))
    with pytest.raises(ConfigurationError, match="4 features"):
        layer(torch.zeros(1, 5))
    with pytest.raises(ConfigurationError, match="on meta"):
        layer(torch.zeros(1, 4, device="meta"))


def test_a_model_whose_outputs_change_from_call_to_call_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(CompileError, match="from call to call"):
        compile(Noisy().eval(), torch.ones(2))


def test_compile_is_a_public_name_that_import_does_not_load() -> None:
    assert billhook.compile is compile


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear, "not Linear: give an instance"),
        (lambda: torch.relu, "takes a torch.nn.Module"),
        (lambda: torch.jit.trace(nn.Linear(4, 4).eval(), torch.ones(1, 4)), "TorchScript"),
        (
            lambda: nn.Sequential(torch.jit.trace(nn.Linear(4, 4), torch.ones(1, 4))).eval(),
            "0 is a TorchScript module",
        ),
    ],
    ids=["class", "function", "traced", "traced part"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_no_module_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compile(make(), torch.ones(1, 4))
