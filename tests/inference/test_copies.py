"""Compiled models are copied, pickled, traced, called under autocast, moved to other machines."""

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import CompileError, ConfigurationError
from billhook.inference import Choice, CompiledModel, Plan, isa, kernels
from billhook.inference.layers.kinds import make_sparse

from .test_compile import CNNS, forced, pruned

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


def network() -> tuple[nn.Module, torch.Tensor]:
    make, shape = CNNS["residual"]
    return pruned(make()), torch.randn(1, *shape)


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "network": network,
    "linear": lambda: (pruned(nn.Sequential(nn.Linear(32, 24))), torch.randn(3, 32)),
    "conv": lambda: (pruned(nn.Sequential(nn.Conv1d(8, 8, 3))), torch.randn(1, 8, 12)),
    "lstm": lambda: (pruned(nn.LSTM(16, 16)), torch.randn(4, 2, 16)),
    "encoder": lambda: (
        pruned(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)),
        torch.randn(1, 5, 32),
    ),
}


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast))], ids=["copy", "pickle"]
)
def test_a_copy_gives_the_same_bits(
    name: str, copied: Callable[[CompiledModel], CompiledModel]
) -> None:
    model, x = MODELS[name]()
    fast = forced(model, x)
    again = copied(fast)
    assert torch.equal(first(again(x)), first(fast(x)))
    assert again.plan == fast.plan


@pytest.mark.parametrize("name", MODELS)
def test_a_program_of_a_better_machine_runs_with_this_ones_kernels(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = MODELS[name]()
    fast = forced(model, x)
    billhook.save(fast, tmp_path / "program")
    data = pickle.dumps(fast)
    monkeypatch.setattr(isa, "supported", lambda _: ("portable",))
    again = billhook.load_compiled(tmp_path / "program", model)
    assert again.plan.isa == "portable"
    assert again.report().isa == "portable"
    for other in (again, pickle.loads(data)):
        assert torch.allclose(first(other(x)), first(fast(x)), atol=1e-5)
    if fast.plan.isa != "portable":
        with pytest.raises(CompileError, match="compile without plan="):
            billhook.compile(model, x, plan=fast.plan)


@pytest.mark.parametrize("name", MODELS)
def test_tracers_are_refused(name: str) -> None:
    model, x = MODELS[name]()
    fast = forced(model, x)
    for program in (fast, fast.program):
        with pytest.raises(ConfigurationError, match=r"torch\.jit\.trace"):
            torch.jit.trace(program, x, check_trace=False)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_changes_nothing(name: str) -> None:
    model, x = MODELS[name]()
    wanted = first(forced(model, x)(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = forced(model, x)
        assert torch.equal(first(fast(x)), wanted)
        billhook.compile(model, x)


def test_replaced_layers_answer_for_weights_and_settings() -> None:
    conv = pruned(nn.Conv2d(4, 6, 3, stride=2, bias=False))
    attention, lstm = pruned(nn.MultiheadAttention(8, 2)), pruned(nn.LSTM(4, 5))
    linear = pruned(nn.Linear(6, 3))
    linear.note = "mine"  # type: ignore[assignment]
    for dense in (conv, attention, lstm, linear):
        sparse = make_sparse(dense, Choice("spmm" if dense is conv else "sparse"), 0)
        for name, wanted in dense.named_parameters():
            if name == "in_proj_bias":
                continue  # its absence keeps encoders off a path that reads weights
            given = sparse
            for part in name.split("."):
                given = getattr(given, part)
            assert isinstance(given, torch.Tensor)
            assert (given.dtype, given.shape, given.device) == (
                wanted.dtype,
                wanted.shape,
                wanted.device,
            )
            assert torch.equal(given + 0, wanted)
        for name in ("in_features", "kernel_size", "stride", "hidden_size", "embed_dim", "note"):
            assert getattr(sparse, name, None) == getattr(dense, name, None)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = sparse.nothing
    assert make_sparse(conv, Choice("spmm"), 0).bias is None


def test_a_weight_is_read_only_and_takes_no_memory_until_read() -> None:
    layer = make_sparse(pruned(nn.Linear(8, 8)), Choice("sparse"), 0)
    with pytest.raises(ConfigurationError, match="read-only"):
        layer.weight.mul_(2)
    with pytest.raises(ConfigurationError, match="StandIn"):
        layer(layer.weight)
    assert "StandIn" in repr(layer.weight)
    assert torch.equal(copy.deepcopy(layer.weight) + 0, layer.weight + 0)


def test_a_state_dict_that_would_lack_weights_is_refused() -> None:
    model, x = MODELS["linear"]()
    fast = forced(model, x)
    with pytest.raises(ConfigurationError, match=r"billhook\.save"):
        fast.program.state_dict()
    with pytest.raises(ConfigurationError, match="compile again"):
        fast.program.load_state_dict(model.state_dict())


def test_attributes_of_the_model_can_be_reached() -> None:
    model, x = MODELS["linear"]()
    model.config = {"units": 3}  # type: ignore[assignment]
    fast = forced(model, x)
    assert fast.config == {"units": 3}
    with pytest.raises(AttributeError, match="nothing"):
        _ = fast.nothing
    with pytest.raises(AttributeError, match="config"):
        _ = forced(*network()).config


def test_memory_does_not_grow_with_batch_sizes() -> None:
    fast = forced(pruned(nn.Linear(256, 256)), torch.randn(1, 256))
    fast(torch.randn(2, 256))
    before = fast.nbytes
    for batch in (3, 8, 16, 24, 40, 64, 300):
        fast(torch.randn(batch, 256))
    assert fast.nbytes == before


@pytest.mark.parametrize("kernel", ["spmm", "spmm_packed", "depthwise"])
def test_sizes_of_images_share_packed_weights(kernel: str) -> None:
    groups = 64 if kernel == "depthwise" else 1
    model = pruned(nn.Conv2d(64, 64, 3, padding=1, groups=groups), 0.5)
    plan = Plan("modules", isa.best("fp32"), {"": Choice(kernel, 4)})
    fast = billhook.compile(model, torch.randn(64, 9, 9), plan=plan)
    gc.collect()
    before = fast.nbytes
    for size in range(10, 20):
        x = torch.randn(64, size, size)
        with torch.no_grad():
            assert torch.allclose(fast(x), model(x), atol=1e-4)
    assert fast.nbytes <= (2 if kernel == "spmm" else 1.01) * before


def test_no_samples_give_no_outputs() -> None:
    for model in (nn.LSTM(4, 5, 2, bidirectional=True), nn.GRU(4, 5)):
        fast = forced(pruned(model), torch.randn(3, 2, 4))
        x = torch.randn(3, 0, 4)
        with torch.no_grad():
            wanted = torch.utils._pytree.tree_leaves(model(x))
        given = torch.utils._pytree.tree_leaves(fast(x))
        assert [y.shape for y in given] == [y.shape for y in wanted]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": {"0": "sparse"}},
        {"layers": {"0": {"kernel": "sparse", "extra": 1}}},
        {"layers": {"0": {"kernel": "sparse", "vectors": "8"}}},
        {"layers": {"0": {"vectors": 8}}},
        {"layers": [1]},
        {"mode": None},
    ],
)
def test_a_malformed_plan_is_a_clear_error(change: dict[str, Any]) -> None:
    plan = {"version": 1, "mode": "modules", "isa": "portable", "layers": {}}
    with pytest.raises(ConfigurationError, match="plan"):
        Plan.from_dict({**plan, **change})
    with pytest.raises(ConfigurationError, match="plan"):
        Plan.from_dict({"mode": "modules"})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "move",
    [
        lambda fast: fast.half(),
        lambda fast: fast.double(),
        lambda fast: fast.to(torch.bfloat16),
        lambda fast: fast.to("meta"),
    ],
    ids=["half", "double", "bfloat16", "meta"],
)
def test_a_compiled_model_stays_in_fp32_on_the_cpu(
    name: str, move: Callable[[CompiledModel], CompiledModel]
) -> None:
    model, x = MODELS[name]()
    fast = forced(model, x)
    expected = first(fast(x))
    with pytest.raises(ConfigurationError, match="computes in fp32 on the CPU and cannot become"):
        move(fast)
    assert torch.equal(first(fast.float().to("cpu").eval()(x)), expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_compiled_model_takes_no_other_weights(name: str, strict: bool) -> None:
    model, x = MODELS[name]()
    with pytest.raises(ConfigurationError, match="load it into the dense model and compile again"):
        forced(model, x).load_state_dict(model.state_dict(), strict=strict)


@pytest.mark.parametrize("name", ["network", "linear"])
def test_a_compiled_model_inside_another_is_never_lost(name: str, tmp_path: Path) -> None:
    model, x = MODELS[name]()
    inside = forced(model, x)
    around = nn.Sequential(inside, nn.Linear(4, 4)).eval()
    with pytest.raises(ConfigurationError, match=r"0 is a compiled model, .* writes it by itself"):
        billhook.save(around, tmp_path / "lost")
    for again in (around, inside):
        with pytest.raises(ConfigurationError, match="compiled already"):
            billhook.compile(again, x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_weights_that_torch_holds_sparse_stay_dense_with_a_reason() -> None:
    layer = nn.Linear(8, 8, bias=False)
    layer.weight = nn.Parameter(torch.eye(8).to_sparse_csr(), requires_grad=False)
    layers = {"0": {"kernel": "sparse"}}
    plan = {"version": 1, "mode": "modules", "isa": "portable", "layers": layers}
    with pytest.raises(CompileError, match="sparse tensors of torch: make them dense"):
        billhook.compile(nn.Sequential(layer).eval(), torch.randn(2, 8), plan=plan)
