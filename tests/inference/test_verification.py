"""A program that would compute something else is not used; the model itself is not changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.errors import CompileError
from billhook.inference import Choice, Plan, kernels
from billhook.inference.graph import UnsupportedError, capture_graph
from billhook.inference.verification import Trials, UnstableError

from .test_compile import forced, pruned, relative_error

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


class Branch(nn.Module):
    """Does something else for a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = y if len(x) == 1 else y.relu()
        z: torch.Tensor = self.second(y)
        return z


def test_a_branch_on_the_batch_size_is_noticed() -> None:
    model, x = pruned(Branch(), 0.5), torch.randn(1, 3, 12, 12)
    names = ("first", "second")
    plan = Plan("network", "portable", {name: Choice("spmm") for name in names})
    with pytest.raises(CompileError, match="outputs differ"):
        billhook.compile(model, x, plan=plan)
    fast = billhook.compile(model, x)
    assert fast.plan.mode != "network"
    assert "outputs differ" in str(fast.report())
    both = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert relative_error(fast(both), model(both)) <= 1e-5


class LargeNumbers(nn.Module):
    """Adds and subtracts a large number: its own outputs are right to some 1e-4 only."""

    def __init__(self, large: float = 1e4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(512, 64), nn.Linear(64, 64)
        self.large = large

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.second(self.first(x)) + self.large
        return z - self.large


class Off(nn.Module):
    """Another module's outputs, by a relative error off."""

    def __init__(self, model: nn.Module, error: float) -> None:
        super().__init__()
        self.model, self.error = model, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.model(x)
        return y * (1 + self.error)


def test_a_program_may_round_as_much_as_its_model_does() -> None:
    model, x = pruned(LargeNumbers(), 0.9), torch.randn(8, 512)
    exact = pruned(LargeNumbers(0.0), 0.9)
    exact.load_state_dict(model.state_dict())
    trials = Trials(model, (x,))
    with torch.no_grad():
        assert relative_error(exact(x), model(x)) > 1e-5
        trials.check(exact)  # has not the model's rounding error: nearer to the truth than itself
        trials.check(Off(exact, 1e-6))
        with pytest.raises(CompileError, match="outputs differ"):
            trials.check(Off(exact, 2e-2))
        with pytest.raises(CompileError, match="outputs differ"):  # the same of one that is exact
            Trials(exact, (x,)).check(Off(exact, 2e-4))


def test_a_model_that_does_not_repeat_itself_has_no_rounding_of_its_own() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1e-4 * torch.randn_like(x)

    with pytest.raises(UnstableError):
        Trials(Noisy(), (torch.randn(64, 64),)).check(nn.Identity())


def test_no_error_of_a_model_allows_more_than_a_thousandth() -> None:
    model, x = pruned(LargeNumbers(1e7), 0.9), torch.randn(8, 512)
    exact = pruned(LargeNumbers(0.0), 0.9)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad(), pytest.raises(CompileError, match="outputs differ"):
        Trials(model, (x,)).check(Off(exact, 2e-3))


def test_a_difference_that_zeros_hide_is_noticed() -> None:
    class Program(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    for example in (torch.zeros(2, 4), torch.rand(2, 4)):
        with pytest.raises(CompileError, match="inputs"):
            Trials(nn.Identity(), (example,)).check(Program())


@dataclass
class Output:
    y: torch.Tensor


class Slotted:
    __slots__ = ("y",)

    def __init__(self, y: torch.Tensor) -> None:
        self.y = y


WRAPS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda y: y,
    "tuple": lambda y: (1, y),
    "dict": lambda y: {"y": [y]},
    "dataclass": Output,
    "slots": Slotted,
    "class attribute": lambda y: type("R", (), {"y": y})(),
    "complex": lambda y: torch.complex(y, y),
    "numpy": lambda y: y.numpy(),
    "number": lambda y: float(y.sum()),
    "sparse": lambda y: y.to_sparse(),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_outputs_are_compared_wherever_they_are(wrap: str) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(16, 16), 0

        def forward(self, x: torch.Tensor) -> Any:
            self.calls += 1
            return WRAPS[wrap](self.layer(x) * self.calls)

    model = pruned(Counting())
    with pytest.raises(CompileError, match="differ from call to call"):
        forced(model, torch.rand(1, 16))
    assert model.calls == 0


def test_buffers_that_forward_writes_are_put_back() -> None:
    class Running(nn.Module):
        state: torch.Tensor
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)
            self.register_buffer("state", torch.zeros(16))
            self.register_buffer("count", torch.zeros((), dtype=torch.long))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            self.state = self.state + self.layer(x).sum(0)
            return self.state

    model, x = Running(), torch.rand(2, 16)
    pruned(model)
    before = model.state
    for fast in (billhook.compile(model, x), forced(model, x)):
        assert model.state is before
        assert int(model.count) == 0
        assert not before.any()
        with torch.no_grad():
            wanted = Running().eval()
            wanted.load_state_dict(model.state_dict())
            for _ in range(3):
                assert relative_error(fast(x), wanted(x)) <= 1e-5


def test_hooks_are_called_as_before() -> None:
    relu = nn.ReLU()
    model = pruned(nn.Sequential(nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 8, 3)))
    seen: list[torch.Size] = []
    relu.register_forward_hook(lambda _, __, y: seen.append(y.shape))
    fast = forced(model, torch.rand(1, 3, 9, 9))
    assert fast.plan.mode == "modules"
    seen.clear()
    fast(torch.rand(2, 3, 9, 9))
    assert seen == [(2, 8, 7, 7)]


def test_a_replaced_forward_is_not_lost() -> None:
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    model[0].forward = lambda x: 2 * x
    fast = billhook.compile(model, torch.rand(1, 8))
    assert torch.equal(fast(torch.ones(1, 8)), 2 * torch.ones(1, 8))


@pytest.mark.parametrize("mode", ["network", "modules", "dense"])
def test_a_program_owns_its_weights(mode: str, tmp_path: Any) -> None:
    model = pruned(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), 0.5)
    x = torch.rand(1, 3, 9, 9)
    layers = {"0": Choice("spmm"), "1": Choice("dense"), "2": Choice("spmm_packed")}
    plan = Plan(mode, "portable", {} if mode == "dense" else layers)  # type: ignore[arg-type]
    fast = billhook.compile(model, x, plan=plan)
    wanted = fast(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(fast(x), wanted)
    billhook.save(fast, tmp_path / "program")
    with torch.no_grad():
        again = billhook.load_compiled(tmp_path / "program", model)
    assert torch.equal(again(x), wanted)


class InPlace(nn.Module):
    def __init__(self, through: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.through = nn.Conv2d(3, 4, 3), through

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        self.through(y).relu_()
        return self.conv.bias.sum() + F.avg_pool2d(y, 2)  # type: ignore[union-attr]


VIEWS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda y: y.flatten(1),
    lambda y: F.dropout(y, training=False),
    lambda y: y.view(-1),
]


@pytest.mark.parametrize("through", VIEWS)
def test_writes_through_a_view_are_not_lost(
    through: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(UnsupportedError):
        capture_graph(InPlace(through).eval(), (torch.rand(1, 3, 9, 9),))


class InDict(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> Any:
        return {"y": super().forward(x)}


class WritesInput(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.relu_())


MODELS = [nn.Identity(), nn.Dropout(), InDict(3, 4, 3), WritesInput(3, 4, 3)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_models_with_little_to_compute_or_odd_outputs_keep_them(model: nn.Module) -> None:
    model.eval()
    x = torch.randn(1, 3, 8, 8)
    if isinstance(model, WritesInput):
        with pytest.raises(UnsupportedError):
            capture_graph(model, (x.clone(),))
    given, wanted = billhook.compile(model, x)(x.clone()), model(x.clone())
    assert type(given) is type(wanted)
    tensors = [y["y"] if isinstance(y, dict) else y for y in (given, wanted)]
    assert torch.allclose(tensors[0], tensors[1], atol=1e-5)


def test_a_layer_used_twice_has_a_choice_for_each_use(tmp_path: Any) -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.c(self.c(x).relu()))  # type: ignore[no-any-return]

    model, x = pruned(Thrice(), 0.5), torch.rand(1, 4, 8, 8)
    fast = forced(model, x)
    assert list(fast.plan.layers) == ["c", "c#2", "c#3"]
    billhook.save(fast, tmp_path / "program")
    assert torch.equal(billhook.load_compiled(tmp_path / "program")(x), fast(x))
    assert billhook.compile(model, x, plan=fast.plan.to_dict()).plan == fast.plan
