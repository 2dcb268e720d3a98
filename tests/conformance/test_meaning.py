"""What criteria, drop-and-grow, Hold and AC/DC mean, against naive references."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook import OneShot, Pruner
from billhook.errors import BillhookError, ConfigurationError, MaskError
from billhook.falling import Alternating
from billhook.granularity import PerRow
from billhook.regrowth import GradientRegrowth
from billhook.saliency import Averaged, FirstOrder, Fisher, Movement, Wanda
from billhook.schedule import Cubic, Hold
from billhook.selection import Rules, named_weights


def _batch(step: int) -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(step))


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 5)


def _largest(scores: Tensor, count: int) -> Tensor:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return mask.view(scores.shape)


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> Any:
    seen = []
    for step in range(first, last):
        optimizer.zero_grad()
        model(_batch(step)).square().sum().backward()
        weight = model.get_parameter("weight")
        assert weight.grad is not None
        seen.append((weight.detach().clone(), weight.grad.clone()))
        optimizer.step()
    return seen


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (FirstOrder(), lambda w, seen: sum((a * g).abs() for a, g in seen[2:])),
        (Fisher(damp=0.1), lambda w, seen: w**2 * (0.1 + sum(g**2 for _, g in seen[2:]) / 3)),
        (Fisher(gradients=2), lambda w, seen: w**2 * (1e-7 + sum(g**2 for _, g in seen[3:]) / 2)),
        (Movement(), lambda w, seen: sum(-a * g for a, g in seen)),
    ],
    ids=["first-order", "fisher-damped", "fisher-two-gradients", "movement"],
)
def test_gradients_are_averaged_between_updates(criterion: Averaged, expected: Any) -> None:
    """Updates after steps 2 (which keeps all) and 5: the second one ranks what steps 3 to 5 saw."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = Pruner(model, optimizer, Cubic(0.6, 2, 5, frequency=3), criterion=criterion)
    seen = _steps(model, optimizer, 0, 5)
    raw = seen[-1][0] - 0.01 * seen[-1][1]
    assert torch.equal(pruner.masks["weight"], _largest(expected(raw, seen), 16))


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_fisher_scores_of_a_block_are_pooled(pooling: Any) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    blocks = billhook.Block(1, 4, pooling)
    pruner = Pruner(
        model, optimizer, OneShot(0.5, 3), criterion=Fisher(damp=0.1), granularity=blocks
    )
    seen = _steps(model, optimizer, 0, 3)
    raw = seen[-1][0] - 0.01 * seen[-1][1]
    scores = raw**2 * (0.1 + sum(g**2 for _, g in seen) / 3)
    of_blocks = scores.view(5, 2, 4)
    pooled = of_blocks.sum(2) if pooling == "sum" else of_blocks.amax(2)
    expected = _largest(pooled, 5).repeat_interleave(4, dim=1)
    assert torch.equal(pruner.masks["weight"], expected)


def test_wanda_ranks_within_each_output_by_the_norms_of_inputs() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = Pruner(model, optimizer, OneShot(0.5, 1), criterion=Wanda(), granularity=PerRow())
    scale = torch.tensor([1.0, 9.0, 0.1, 1.0, 5.0, 1.0, 1.0, 0.01])
    inputs = _batch(0) * scale
    for part in inputs.split(3):
        model(part)
    model(inputs).sum().backward()
    optimizer.param_groups[0]["lr"] = 1e-12
    optimizer.step()
    scores = model.weight.detach().clone()
    mask = pruner.masks["weight"]
    raw = _model().weight.detach().abs() * inputs.norm(dim=0)
    assert mask.sum(1).tolist() == [4] * 5
    assert torch.equal(mask, torch.stack([_largest(row, 4) for row in raw]))
    assert not scores[~mask].any()
    conv = nn.Conv2d(4, 6, 3, groups=2)
    measured = Wanda().observe_inputs(
        conv, torch.ones(2, 4, 5, 5) * torch.arange(4.0)[:, None, None]
    )
    assert measured.tolist() == [[0.0, 1.0], [4.0, 9.0]]
    scored = Wanda().score(torch.ones(6, 2, 3, 3), measured)
    assert scored[:, :, 0, 0].tolist() == [[0.0, 1.0]] * 3 + [[2.0, 3.0]] * 3


def test_dropped_weights_are_the_smallest_and_grown_ones_have_the_largest_gradients() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = OneShot(0.5, 0, 20, frequency=5)
    pruner = Pruner(model, optimizer, schedule, regrow=GradientRegrowth(0.4))
    _steps(model, optimizer, 0, 4)
    before, weight = pruner.masks["weight"], model.weight
    dense = weight.detach().clone().requires_grad_()
    (nn.functional.linear(_batch(4), dense, model.bias)).square().sum().backward()
    assert dense.grad is not None
    after_step = weight.detach() - 0.01 * dense.grad.masked_fill(~before, 0.0)
    _steps(model, optimizer, 4, 5)
    count = round(GradientRegrowth(0.4).share(schedule, 5) * 20)
    assert count == 7
    stays = _largest(after_step.abs().masked_fill(~before, -1.0), 20 - count)
    expected = _largest(dense.grad.abs().masked_fill(stays, torch.inf), 20)
    assert torch.equal(pruner.masks["weight"], expected)
    grown = expected & ~before
    assert grown.any()
    assert not weight.detach()[grown].any()  # they start from zero
    _steps(model, optimizer, 5, 20)
    assert pruner.finalize().sparsity == 0.5


class _Experts(nn.Module):
    """A mixture of three experts, their matrices (out, in) in one tensor, as transformers' are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Parameter(torch.randn(3, 12, 8))
        self.conv = nn.Conv1d(8, 12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("eoi,bi->beo", self.up, x)


@pytest.mark.parametrize("regrow", [True, GradientRegrowth(0.4)])
@pytest.mark.parametrize(
    "granularity",
    [billhook.Block(1, 4), billhook.Block(4, 1), billhook.NM(2, 4), PerRow(), billhook.Rows()],
    ids=repr,
)
def test_patterns_of_stacked_experts_lie_within_each_experts_matrix(
    granularity: Any, regrow: Any
) -> None:
    model = _Experts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rules: Rules = {"up": 0.5, "conv": None}
    schedule = OneShot(0.5, 0, 4, frequency=2)
    pruner = Pruner(model, optimizer, schedule, granularity=granularity, rules=rules, regrow=regrow)
    expected = torch.stack([granularity.mask(each.abs(), 48) for each in _Experts().up.detach()])
    if isinstance(granularity, (billhook.NM, PerRow)):  # every row has its own share
        assert torch.equal(pruner.masks["up"], expected)
    whole = granularity.mask(_Experts().up.detach().abs().flatten(0, 1), 144)
    assert torch.equal(pruner.masks["up"], whole.view(3, 12, 8))
    for step in range(6):
        optimizer.zero_grad()
        model(_batch(step)).square().mean().backward()
        optimizer.step()
    assert pruner.masks["up"].shape == (3, 12, 8)
    assert int(pruner.masks["up"].sum()) == 144
    pruner.finalize()
    count = billhook.plan(schedule, 0.1, 8, model=model, rules=rules, granularity=granularity)
    assert not count.warnings


def test_a_convolution_of_three_dimensions_is_no_stack() -> None:
    weights = {weight.name: weight.pattern_shape for weight in named_weights(_Experts())}
    assert weights["conv.weight"] == (12, 8, 4)
    assert weights["up"] == (36, 8)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_of_masked_weights_are_collected_over_micro_batches(accumulate: int) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = Pruner(model, optimizer, OneShot(0.5, 0, 2, frequency=1), regrow=GradientRegrowth(0.4))
    for step in range(accumulate):
        model(_batch(step)).square().sum().backward()
    assert model.weight.grad is not None
    assert not model.weight.grad[~pruner.masks["weight"]].any()
    dense = model.weight.detach().clone().requires_grad_()
    for step in range(accumulate):
        nn.functional.linear(_batch(step), dense, model.bias).square().sum().backward()
    collected = pruner._weights[0].gradient.dense()
    assert collected is not None
    torch.testing.assert_close(collected, dense.grad)


def test_alternating_phases_start_from_zero_with_fresh_state() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pruner = Pruner(model, optimizer, Alternating(0.5, 1, 9, frequency=2))
    _steps(model, optimizer, 0, 2)
    sparse = pruner.masks["weight"]
    assert int(sparse.sum()) == 20
    _steps(model, optimizer, 2, 3)  # the dense phase begins: nothing returns with its old value
    assert pruner.masks["weight"].all()
    assert not model.weight.detach()[~sparse].any()
    assert not optimizer.state[model.weight]["momentum_buffer"].any()
    _steps(model, optimizer, 3, 5)
    assert int(pruner.masks["weight"].sum()) == 20
    _steps(model, optimizer, 5, 9)
    assert pruner.finalize().nonzero == 20


def _sparse_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
    with torch.no_grad():
        for layer, share in ((model[0], 0.6), (model[2], 0.3)):
            weight = layer.get_parameter("weight")
            weight[torch.rand_like(weight) < share] = 0.0
    return model


def test_hold_keeps_the_zeros_of_a_sparse_checkpoint_to_the_last_one() -> None:
    model = _sparse_model()
    zeros = {name: p == 0 for name, p in model.named_parameters() if p.dim() == 2}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    pruner = Pruner(model, optimizer, Hold())
    assert "as they are" in str(pruner.selection)
    for step in range(5):
        optimizer.zero_grad()
        model(_batch(step)).square().sum().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name in zeros:
            assert torch.equal(parameter == 0, zeros[name])
    report = {tensor.name: tensor for tensor in pruner.finalize()}
    assert report["0.weight"].sparsity == report["0.weight"].target
    assert report["0.weight"].kept == int((~zeros["0.weight"]).sum())


def test_hold_names_tensors_without_a_zero_and_refuses_sparsities_of_their_own() -> None:
    model = _sparse_model()
    nn.init.ones_(model[2].get_parameter("weight"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"no zero in 1 of 2 tensors, .*'2.weight'"):
        Pruner(model, optimizer, Hold()).detach()
    with pytest.raises(ConfigurationError, match=r"Hold\(\) takes each tensor's zeros"):
        Pruner(model, optimizer, Hold(), rules={"2": 0.5})
    pruner = Pruner(model, optimizer, Hold(), rules={"2": OneShot(0.5, 1)})  # a schedule of its own
    assert int(pruner.masks["2.weight"].sum()) == 80
    assert pruner.end_step == 1


def test_rules_can_give_schedules() -> None:
    model = nn.Sequential(nn.Linear(8, 10), nn.Linear(10, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    late = Cubic(0.5, 3, 9, frequency=3)
    pruner = Pruner(model, optimizer, OneShot(0.9, 1), rules={"1": late})
    counts = []
    for step in range(1, 10):
        optimizer.zero_grad()
        model(_batch(step)).square().sum().backward()
        optimizer.step()
        counts.append([int(mask.sum()) for mask in pruner.masks.values()])
    assert [each[0] for each in counts] == [8] * 9
    assert [each[1] for each in counts] == [round(100 * (1 - late(step))) for step in range(1, 10)]
    state = pruner.state_dict()
    assert state["configuration"]["schedules"] == {"1.weight": repr(late)}
    assert pruner.finalize().nonzero == 58


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"granularity": billhook.Block(64, 1)}, r"'weight': Block\(rows=64.* is larger than"),
        ({"granularity": billhook.NM(2, 4)}, r"'weight': NM\(n=2, m=4\) prunes 0.5 .* 0.9"),
        ({"criterion": FirstOrder()}, r"FirstOrder\(\) needs gradient, and begin_step=0"),
        ({"criterion": lambda w, g, n: w.abs()}, "the criterion <function .* has no configuration"),
        ({"regrow": "never"}, "regrow is 'never': give True, False or a GradientRegrowth"),
        ({"allocation": billhook.ErdosRenyi(floor=0.5)}, "a floor of 0.5 keeps 20 weights"),
    ],
)
def test_what_cannot_work_fails_when_the_pruner_attaches(options: Any, cause: str) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=cause):
        Pruner(model, optimizer, OneShot(0.9), **options)
    Pruner(model, optimizer, OneShot(0.9)).finalize()  # and leaves nothing behind


def test_groups_match_something_and_do_not_overlap() -> None:
    for groups, cause in (
        (("decoder.*",), "matches none"),
        (("w*", "weight"), "both match 'weight'"),
    ):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        allocation = billhook.Global(groups=groups)
        with pytest.raises(BillhookError, match=cause):
            Pruner(model, optimizer, OneShot(0.9), allocation=allocation)


def test_a_layer_without_a_gradient_is_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(8, 5), "unused": nn.Linear(8, 5)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, optimizer, OneShot(0.5, 1), criterion=FirstOrder())
    model["used"](_batch(0)).sum().backward()
    with pytest.raises(MaskError, match=r"needs a gradient of 'unused.weight'"):
        optimizer.step()
    pruner.detach()
