import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import billhook
from billhook import Cubic, OneShot, Pruner
from billhook.errors import ConfigurationError, MaskError, StateError


def _model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, first: int = 0
) -> None:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 10, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 5).backward()
        optimizer.step()


def test_masks_follow_the_schedule_step_by_step() -> None:
    model = _model()
    optimizer = _sgd(model)
    schedule = Cubic(0.9, 3, 15, frequency=4)
    pruner = Pruner(model, optimizer, schedule)
    for step in range(20):
        assert pruner.step_count == step
        for row in pruner.report():
            assert row.kept == round((1 - schedule(step)) * row.numel)
        _train(model, optimizer, 1, first=step)
    report = pruner.finalize()
    assert report.sparsity == pytest.approx(0.9)
    assert report.nonzero == 20 + 10
    assert [int(p.eq(0).sum()) for p in model.parameters() if p.dim() == 2] == [180, 90]


def test_begin_step_zero_prunes_when_the_pruner_attaches() -> None:
    model = _model()
    pruner = Pruner(model, _sgd(model), OneShot(0.5))
    assert pruner.report().sparsity == 0.5
    assert torch.equal(model.get_parameter("0.weight").ne(0), pruner.masks["0.weight"])


def test_a_pruned_weight_returns_with_its_raw_value_and_fresh_state() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    Pruner(model, optimizer, OneShot(0.5, 1, 3, frequency=2))

    def step(gradient: list[float]) -> list[float]:
        optimizer.zero_grad()
        (model.weight * torch.tensor([gradient])).sum().backward()
        optimizer.step()
        return [float(value) for value in model.weight.detach().flatten()]

    assert step([-0.5, 0.0]) == [0.0, 2.0]  # 1.5 goes aside
    assert step([-9.0, 1.9]) == pytest.approx([0.0, 0.1])  # no gradient reaches it
    # The other one is now at -1.61 + ... and below 1.5 in magnitude: they change places.
    assert step([-9.0, -2.71]) == pytest.approx([1.5, 0.0])
    assert step([-1.0, 0.0]) == pytest.approx([2.5, 0.0])  # a first step with no momentum


def test_regrow_false_only_shrinks() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, Cubic(0.8, 0, 20, frequency=1), regrow=False)
    previous = pruner.masks
    for step in range(20):
        _train(model, optimizer, 1, first=step)
        masks = pruner.masks
        assert all(not (masks[name] & ~previous[name]).any() for name in masks)
        previous = masks


def test_values_are_kept_aside_only_while_masks_change() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, Cubic(0.8, 0, 4, frequency=2))
    sizes = []
    for step in range(5):
        weights = pruner.state_dict()["weights"].values()
        sizes.append([w["aside"][0].numel() if w["aside"] else None for w in weights])
        _train(model, optimizer, 1, first=step)
    masked = [round(0.7 * 200), round(0.7 * 100)]
    assert sizes == [[0, 0], [0, 0], masked, masked, [None, None]]


def test_random_is_nested_and_the_same_everywhere() -> None:
    masks = []
    for seed in (0, 1):
        model = _model(seed)
        optimizer = _sgd(model)
        schedule = Cubic(0.8, 0, 6, frequency=2)
        pruner = Pruner(model, optimizer, schedule, criterion=billhook.Random(seed=5))
        _train(model, optimizer, 4)
        early = pruner.masks
        _train(model, optimizer, 2)
        masks.append(pruner.masks)
        assert all(not (masks[-1][name] & ~early[name]).any() for name in early)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_rules_give_a_tensor_its_own_final_sparsity() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(
        model, optimizer, Cubic(0.9, 0, 4, frequency=1), rules={"2": 0.5, "0.bias": 0.1}
    )
    _train(model, optimizer, 4)
    kept = {row.name: row.kept for row in pruner.finalize()}
    assert kept == {"0.weight": 20, "0.bias": 18, "2.weight": 50}


def test_the_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = _model()
    with caplog.at_level(logging.INFO, "billhook"):
        Pruner(model, _sgd(model), OneShot(0.5))
    (line,) = caplog.messages
    assert "prunes 2 tensors, 300 of 325 parameters, to sparsity 0.5" in line
    assert "left dense (bias, 25 parameters): 0.bias, 2.bias" in line


def test_two_optimizers_the_first_counts() -> None:
    model = _model()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam(model[2].parameters(), lr=0.1)
    pruner = Pruner(model, [first, second], OneShot(0.5, 2))
    for _ in range(2):
        model(torch.randn(4, 10)).sum().backward()
        second.step()
        second.step()
        first.step()
    assert pruner.step_count == 2
    model(torch.randn(4, 10)).sum().backward()
    second.step()
    assert int(model.get_parameter("2.weight").eq(0).sum()) == 50


def test_finalize_before_the_end_says_what_was_reached_and_stays_attached() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, Cubic(0.9, 0, 10, frequency=5))
    _train(model, optimizer, 7)
    with pytest.raises(StateError, match=r"7 of the 10 .* 78\.6\d% sparse, not 90.00%"):
        pruner.finalize()
    _train(model, optimizer, 3, first=7)
    pruner.finalize()


def test_finalize_detaches_unless_masks_are_kept() -> None:
    for keep_masks in (True, False):
        model = _model()
        optimizer = _sgd(model)
        pruner = Pruner(model, optimizer, OneShot(0.5))
        pruner.finalize(keep_masks=keep_masks)
        _train(model, optimizer, 3)
        zeros = sum(
            int(p.eq(0).sum())
            for p in (model.get_parameter("0.weight"), model.get_parameter("2.weight"))
        )
        assert (zeros == 150) is keep_masks


def test_detach_leaves_model_and_optimizer_free_of_us() -> None:
    model, reference = _model(), _model()
    optimizer, plain = _sgd(model), _sgd(reference)
    Pruner(model, optimizer, OneShot(0.5, 100)).detach()
    _train(model, optimizer, 3)
    _train(reference, plain, 3)
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_a_pruned_model_copies_pickles_and_saves_as_any_other() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, OneShot(0.5))
    _train(model, optimizer, 2)
    assert list(model.state_dict()) == list(_model().state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, model.parameters(), other.parameters()))
        _train(other, _sgd(other), 1)  # no hook came along: its zeros are free to move
        assert int(other.get_parameter("0.weight").eq(0).sum()) < 100
    assert pruner.step_count == 2
    pickle.dumps(optimizer.state_dict())


def test_apply_to_zeroes_a_moving_average() -> None:
    model = _model()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, OneShot(0.5, 2))
    for step in range(4):
        _train(model, optimizer, 1, first=step)
        average.update_parameters(model)
    average_weight = average.module.get_parameter("0.weight")
    assert average_weight.count_nonzero() > 100
    pruner.apply_to(average)
    assert torch.equal(average_weight.ne(0), pruner.masks["0.weight"])
    with pytest.raises(StateError, match="'0.weight' of shape .* is missing"):
        pruner.apply_to(nn.Linear(3, 3))
    with pytest.raises(StateError, match=r"'0.weight' of shape .* is \(20, 10\) on meta"):
        pruner.apply_to(_model().to("meta"))
    state: Any = model.state_dict()
    with pytest.raises(ConfigurationError, match="takes a torch.nn.Module, not a OrderedDict"):
        pruner.apply_to(state)


def test_another_parameter_in_its_place_is_an_error_at_the_next_step() -> None:
    model = _model()
    optimizer = _sgd(model)
    Pruner(model, optimizer, OneShot(0.5))
    model[2].weight = nn.Parameter(torch.ones(5, 20))
    with pytest.raises(StateError, match="'2.weight' is no longer the parameter"):
        _train(model, optimizer, 1)


def test_new_storage_for_the_same_parameter_is_adopted() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, OneShot(0.5))
    model.double().float()
    model.get_parameter("0.weight").data = model.get_parameter("0.weight").data.clone()
    _train(model, optimizer, 2)
    assert torch.equal(model.get_parameter("0.weight").ne(0), pruner.masks["0.weight"])


def test_weights_loaded_over_the_zeros_are_an_error() -> None:
    model = _model()
    optimizer = _sgd(model)
    Pruner(model, optimizer, OneShot(0.5))
    model.load_state_dict(_model(1).state_dict())
    with pytest.raises(StateError, match="100 weights of '0.weight' were written where"):
        _train(model, optimizer, 1)


def test_a_nan_weight_names_the_tensor_and_leaves_the_masks() -> None:
    model = _model()
    optimizer = _sgd(model)
    pruner = Pruner(model, optimizer, OneShot(0.5, 1))
    with torch.no_grad():
        model.get_parameter("2.weight")[0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"no mask for '2.weight' at step 1: 1 of 100"):
        optimizer.step()
    assert pruner.report().sparsity == 0.0


def test_optimizers_that_cannot_work_are_refused() -> None:
    model = _model()
    with pytest.raises(ConfigurationError, match="'0.weight' is selected .* no parameter group"):
        Pruner(model, torch.optim.SGD(model[2].parameters(), 0.1), OneShot(0.5))
    with pytest.raises(ConfigurationError, match="LBFGS"):
        Pruner(model, torch.optim.LBFGS(model.parameters()), OneShot(0.5))
    not_one: Any = [object()]
    with pytest.raises(ConfigurationError, match="object is not the torch.optim.Optimizer"):
        Pruner(model, not_one, OneShot(0.5))
    wrapped = Accelerator(cpu=True).prepare_optimizer(_sgd(model))
    with pytest.raises(ConfigurationError, match="AcceleratedOptimizer is not .* its .optimizer"):
        Pruner(model, wrapped, OneShot(0.5))


def test_a_layer_that_would_vanish_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match=r"leaves none of the 4 weights of '1.weight'"):
        Pruner(model, _sgd(model), OneShot(0.9))
