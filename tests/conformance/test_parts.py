"""Every schedule, criterion, granularity and allocation, alone and put together."""

from typing import Any

import pytest
import torch

from billhook import testing
from billhook.allocation import Allocation, ErdosRenyi, LayerwiseConstant, Uniform
from billhook.criterion import Criterion
from billhook.draw import needs
from billhook.errors import ConfigurationError
from billhook.global_ranking import Global
from billhook.granularity import NM, Block, Granularity, PerRow, Unstructured
from billhook.regrowth import GradientRegrowth
from billhook.schedule import Cubic, OneShot, Schedule

from .parts import ALLOCATIONS, CRITERIA, GRANULARITIES, MODULES, SCHEDULES, public_classes

RISING = Cubic(0.5, 1, 9, frequency=2)
LAYERS = 3  # of the network of the checks


def test_no_part_is_missing() -> None:
    for module, parts in MODULES.items():
        assert public_classes(module) == {type(part) for part in parts}, module.__name__


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules(schedule: Schedule) -> None:
    testing.check_schedule(schedule)
    testing.check_pruner(schedule)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_criteria(criterion: Criterion) -> None:
    if needs(criterion) != "inputs":
        testing.check_criterion(criterion)
    testing.check_pruner(RISING, criterion=criterion)
    testing.check_pruner(RISING, criterion=criterion, granularity=PerRow(), regrow=False)


@pytest.mark.parametrize("granularity", [Unstructured(), Block(4, 1), PerRow()], ids=repr)
@pytest.mark.parametrize("allocation", [Uniform(), ErdosRenyi(), Global(floor=0.1)], ids=repr)
def test_drop_and_grow(allocation: Allocation, granularity: Granularity) -> None:
    for schedule in (RISING, OneShot(0.5, 0, 9, frequency=2)):
        testing.check_pruner(
            schedule,
            granularity=granularity,
            allocation=allocation,
            regrow=GradientRegrowth(0.4),
        )


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_granularities(granularity: Granularity) -> None:
    most = granularity.most if isinstance(granularity, NM) else 0.99
    testing.check_granularity(granularity, most=most)


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
def test_allocations(allocation: Allocation) -> None:
    turns = isinstance(allocation, LayerwiseConstant)
    if not turns:
        testing.check_allocation(allocation)


TOGETHER = [
    *(each for each in ALLOCATIONS if not isinstance(each, Global)),
    Global(floor=0.1),
    Global(groups=(("1.weight", "4.*"), "6.weight"), floor=0.1),
]


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("allocation", TOGETHER, ids=repr)
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_together(granularity: Granularity, allocation: Allocation, regrow: bool) -> None:
    if isinstance(granularity, NM) and allocation != Uniform():
        pytest.skip("N:M gives every tensor its own share")
    testing.check_pruner(RISING, granularity=granularity, allocation=allocation, regrow=regrow)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_in_patterns(schedule: Schedule, granularity: Granularity) -> None:
    if isinstance(granularity, NM) and schedule.final_sparsity > granularity.most:
        pytest.skip("beyond what the pattern can prune")
    testing.check_pruner(schedule, granularity=granularity)


@pytest.mark.parametrize("allocation", TOGETHER, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_with_budgets(schedule: Schedule, allocation: Allocation) -> None:
    if isinstance(allocation, LayerwiseConstant) and (
        schedule.falls or len(schedule.updates) <= LAYERS
    ):
        pytest.skip("layers take turns on a rising curve of enough updates")
    testing.check_pruner(schedule, allocation=allocation)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_criteria_in_patterns(criterion: Criterion, granularity: Granularity) -> None:
    testing.check_pruner(RISING, criterion=criterion, granularity=granularity)


@pytest.mark.parametrize("allocation", TOGETHER, ids=repr)
@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_criteria_with_budgets(criterion: Criterion, allocation: Allocation) -> None:
    testing.check_pruner(RISING, criterion=criterion, allocation=allocation)


class _BadSchedule(Cubic):
    def __call__(self, step: int) -> float:
        return super().__call__(step) if step < 5 else 0.9


class _BadGranularity(Unstructured):
    def kept(self, shape: torch.Size, sparsity: float) -> int:
        return super().kept(shape, sparsity) + 1


class _BadCriterion:
    def __repr__(self) -> str:
        return "BadCriterion()"

    def __call__(self, weight: torch.Tensor, grad: Any, name: str) -> torch.Tensor:
        return weight.abs().float().mul_(torch.rand(()))


class _BadAllocation(Uniform):
    def __call__(self, step: int, tensors: Any, scores: Any) -> dict[str, int]:
        counts = super().__call__(step, tensors, scores)
        return {name: count // 2 for name, count in counts.items()}


def test_the_checks_can_fail() -> None:
    with pytest.raises(AssertionError, match="changes at step"):
        testing.check_schedule(_BadSchedule(0.9, 2, 12, frequency=2))
    with pytest.raises(AssertionError, match="not all survive at sparsity 0"):
        testing.check_granularity(_BadGranularity())
    with pytest.raises(AssertionError, match="other scores the second time"):
        testing.check_criterion(_BadCriterion())
    with pytest.raises(AssertionError, match=r"keeps \d+ weights at 0.0"):
        testing.check_allocation(_BadAllocation())
    with pytest.raises(AssertionError, match="refuses every shape"):
        testing.check_granularity(Block(64, 64))
    with pytest.raises(ConfigurationError, match="no configuration"):
        testing.check_criterion(lambda weight, grad, name: weight.abs())
