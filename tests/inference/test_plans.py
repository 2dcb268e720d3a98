"""Plans that are replayed, written by hand, or standalone."""

import json

import pytest
import torch
from torch import nn

from billhook.errors import CompileError, ConfigurationError
from billhook.inference import Plan, compile, isa
from billhook.inference.verification import TOLERANCE
from billhook.models import ptb_lstm

from .test_compile import CNNS, native_only, pruned, relative_error


@native_only
@pytest.mark.parametrize("name", ["mobilenet", "residual"])
def test_a_raced_plan_replays_bit_for_bit_also_through_json(name: str) -> None:
    make, shape = CNNS[name]
    model = pruned(make())
    x = torch.randn(2, *shape)
    fast = compile(model, x)
    plan = json.loads(json.dumps(fast.plan.to_dict()))
    again = compile(model, x, plan=plan)
    assert again.plan == fast.plan
    assert torch.equal(again(x), fast(x))


@native_only
def test_a_plan_by_hand_names_the_layers_that_capture_and_candidates_list() -> None:
    from billhook.inference.graph import Conv, Layer, capture
    from billhook.inference.layers import candidates, obstacle

    make, shape = CNNS["residual"]
    model, x = pruned(make()), torch.randn(2, *shape)
    wanted = model(x).detach()
    ops = [op for op in capture(model, x) if isinstance(op, Layer)]
    network = {op.name: {"kernel": "spmm" if isinstance(op, Conv) else "sparse"} for op in ops}
    supported = {name: m for name, m in candidates(model) if obstacle(m) is None}
    modules = {
        name: {"kernel": "sparse" if isinstance(m, nn.Linear) else "spmm"}
        for name, m in supported.items()
    }
    for mode, layers in [("network", network), ("modules", modules)]:
        plan = {"version": 1, "mode": mode, "isa": isa.best("fp32"), "layers": layers}
        fast = compile(model, x, plan=plan)
        assert relative_error(fast(x), wanted) <= TOLERANCE
        assert {name: c.kernel for name, c in fast.plan.layers.items()} == {
            name: choice["kernel"] for name, choice in layers.items()
        }


@native_only
def test_standalone_is_one_program_however_fast_torch_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(1, 8)
    fast = compile(model, x, standalone=True)
    assert fast.plan.mode == "network"
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)


@native_only
def test_standalone_names_what_stands_in_the_way() -> None:
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(-1).values

    with pytest.raises(CompileError, match=r"cannot become one program: .*sort"):
        compile(Sorted().eval(), torch.randn(1, 8), standalone=True)


def test_standalone_is_for_fp32_without_a_plan() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(1, 4)
    for arguments in ({"plan": Plan("dense", "portable")}, {"precision": "int8"}):
        with pytest.raises(ConfigurationError, match="standalone"):
            compile(model, x, standalone=True, **arguments)


@native_only
def test_a_model_of_any_length_stays_one() -> None:
    model, words = pruned(ptb_lstm(hidden=16, vocab=20)), torch.randint(20, (2, 5))
    longer = torch.randint(20, (3, 9))
    for standalone in (False, True):
        fast = compile(model, words, standalone=standalone)
        torch.testing.assert_close(fast(longer)[0], model(longer)[0].detach(), rtol=1e-4, atol=1e-5)
    assert fast.plan.mode == "network"
