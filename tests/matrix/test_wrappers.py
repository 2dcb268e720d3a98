"""Optimizers around optimizers: each works and counts right, or is refused with cause and fix."""

from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, optim
from torch.distributed.optim import PostLocalSGDOptimizer

import billhook
from billhook import Cubic, OneShot
from billhook.errors import ConfigurationError, StateError

from .common import assert_held, backward, mlp, train

SCHEDULE = Cubic(0.8, 2, 10, frequency=2)


class Decayed(optim.SGD):
    """Takes its step through ``super().step`` and moves the weights once more."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9).add_(0.01)


class Twice(Decayed):
    """Two steps of the base in one of its own, as extragradient methods take."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        super().step(closure)


@pytest.mark.parametrize("kind", [Decayed, Twice])
def test_a_step_through_super_is_one_step(kind: Any) -> None:
    optim.SGD([torch.ones(1)])  # from now on torch calls hooks in SGD.step too
    Decayed([torch.ones(1)])
    model = mlp()
    optimizer = kind(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE)
    for step in range(10):
        assert pruner.step_count == step
        train(model, optimizer, 1, first=step)
        assert_held(pruner, model)
    assert pruner.finalize().sparsity == pytest.approx(0.8)


def test_steps_count_on_after_one_that_raised() -> None:
    model = mlp()
    optimizer = Twice(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE)

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError

    for step in range(4):
        train(model, optimizer, 1, first=step)
        with pytest.raises(torch.OutOfMemoryError):
            optimizer.step(out_of_memory)
    assert pruner.step_count == 4


class SAM(optim.Optimizer):
    """Sharpness-aware minimisation as it is copied from project to project."""

    def __init__(self, params: Any, base: Any, **settings: Any) -> None:
        super().__init__(params, settings)
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["old"] = parameter.clone()
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["old"])
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("with_closure", [False, True])
def test_sam_is_refused_and_its_base_optimizer_works(with_closure: bool) -> None:
    model = mlp()
    sam = SAM(model.parameters(), optim.SGD, lr=0.1, momentum=0.9)
    with pytest.raises(
        ConfigurationError, match=r"through SGD.*pass the inner optimizer, its .base_optimizer"
    ):
        billhook.Pruner(model, sam, SCHEDULE)
    pruner = billhook.Pruner(model, sam.base_optimizer, SCHEDULE)
    for step in range(10):
        backward(model, step)
        if with_closure:
            sam.step(lambda step=step: backward(model, step))
        else:
            sam.first_step()
            backward(model, step)
            sam.second_step()
        assert_held(pruner, model)
    assert pruner.step_count == 10
    assert pruner.finalize().sparsity == pytest.approx(0.8)


class Lookahead(optim.Optimizer):
    """Every third step the weights go half of the way back to slow ones."""

    def __init__(self, base: optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.base.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("slow", parameter.clone())
        self.base.step(closure)
        self.steps += 1
        for parameter, state in self.state.items() if self.steps % 3 == 0 else ():
            state["slow"].lerp_(parameter, 0.5)
            parameter.copy_(state["slow"])


@pytest.mark.parametrize("outer", [True, False], ids=["the wrapper", "the inner one"])
def test_lookahead_works_whichever_is_given(outer: bool) -> None:
    model = mlp()
    base = optim.AdamW(model.parameters(), lr=0.05)
    wrapper = Lookahead(base)
    pruner = billhook.Pruner(model, wrapper if outer else base, SCHEDULE)
    for step in range(10):
        train(model, wrapper, 1, first=step)
        assert_held(pruner, model)
        moment = base.state[model.get_parameter("0.weight")]["exp_avg"]
        assert not moment[~pruner.masks["0.weight"]].any()
    assert pruner.step_count == 10
    pruner.finalize()


class HookedNever(optim.Optimizer):
    """As timm's Lookahead and opacus's DPOptimizer: no Optimizer.__init__, so no hooks."""

    def __init__(self, base: optim.Optimizer) -> None:
        self._optimizer_step_pre_hooks: Any = OrderedDict()
        self._optimizer_step_post_hooks: Any = OrderedDict()
        self.inner, self.param_groups, self.state = base, base.param_groups, base.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = parameter.grad + 0.01  # noise that privacy asks for
        self.inner.step(closure)


NEVER: Any = None


class Plain:
    """As schedulefree's wrapper: no Optimizer at all."""

    def __init__(self, base: optim.Optimizer) -> None:
        self.base, self.param_groups = base, base.param_groups

    def step(self) -> None:
        self.base.step()


@pytest.mark.parametrize(
    ("wrap", "attribute"),
    [
        (HookedNever, "inner"),
        (Plain, "base"),
        (partial(PostLocalSGDOptimizer, averager=NEVER), "optim"),
    ],
)
def test_wrappers_that_run_no_hooks_are_refused_with_what_to_pass(
    wrap: Any, attribute: str
) -> None:
    model = mlp()
    wrapped = wrap(optim.SGD(model.parameters(), lr=0.1))
    for given in (wrapped, [wrapped]):
        with pytest.raises(
            ConfigurationError, match=rf"pass the inner optimizer, its \.{attribute} \(SGD\)"
        ):
            billhook.Pruner(model, given, SCHEDULE)


def test_gradients_assigned_by_hand_are_masked_before_the_step() -> None:
    seen: list[bool] = []

    class Watching(optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for name, mask in pruner.masks.items():
                grad = model.get_parameter(name).grad
                assert grad is not None
                seen.append(bool(grad[~mask].any()))
            super().step(closure)

    model = mlp()
    optimizer = Watching(model.parameters(), lr=0.1, momentum=0.9)
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5))
    backward(model, 0)
    HookedNever(optimizer).step()  # another tensor
    backward(model, 1)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.add_(1.0)  # the same tensor, written
    optimizer.step()
    for parameter in model.parameters():  # no backward pass at all
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert seen == [False] * 9
    assert pruner.step_count == 3


def test_a_weight_in_two_optimizers_is_held_after_each() -> None:
    model = mlp()
    first = optim.AdamW(model.parameters(), lr=0.05)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    second = optim.Muon(matrices, lr=0.05)
    pruner = billhook.Pruner(model, [first, second], OneShot(0.5, 0, 12, frequency=3))
    for step in range(12):
        train(model, second if step % 3 == 2 else first, 1, first=step)
        assert_held(pruner, model)
        for optimizer, key in ((first, "exp_avg"), (second, "momentum_buffer")):
            state = optimizer.state.get(model.get_parameter("0.weight"), {})
            assert key not in state or not state[key][~pruner.masks["0.weight"]].any()
    assert pruner.step_count == 8


def test_a_new_optimizer_in_mid_run_is_noticed_at_its_first_step() -> None:
    model = mlp()
    pruner = billhook.Pruner(model, optim.AdamW(model.parameters(), lr=0.05), SCHEDULE)
    other = mlp(seed=1)
    train(other, optim.SGD(other.parameters(), lr=0.1), 1)  # another model's is none of ours
    with pytest.raises(StateError, match=r"an optimizer \(SGD\) takes a step on '0.weight'"):
        train(model, optim.SGD(model.parameters(), lr=0.1), 1)
    state = pruner.state_dict()
    pruner.detach()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    further = billhook.Pruner(model, optimizer, SCHEDULE)
    further.load_state_dict(state)
    train(model, optimizer, 10)
    further.finalize()


@pytest.mark.parametrize("first", ["input", "output"])
def test_an_optimizer_for_each_parameter_that_steps_in_the_backward_pass(first: str) -> None:
    model = mlp()
    parameters = list(model.parameters())
    if first == "output":  # its step comes while other layers still need their weights
        parameters.reverse()
    optimizers = {p: optim.Adam([p], lr=0.05) for p in parameters}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(step)
    pruner = billhook.Pruner(model, list(optimizers.values()), SCHEDULE)
    for t in range(10):
        backward(model, t)
        assert pruner.step_count == t + 1
        assert pruner.sparsity == pytest.approx(SCHEDULE(t + 1), abs=0.01)
        assert_held(pruner, model)
    pruner.finalize()
