"""Every part that billhook ships, at least once; a test sees that none is missing."""

from collections.abc import Sequence
from typing import Any

from billhook import (
    allocation,
    criterion,
    falling,
    global_ranking,
    granularity,
    saliency,
    schedule,
)
from billhook.allocation import Allocation, ErdosRenyi, LayerwiseConstant, Uniform
from billhook.criterion import Criterion, Magnitude, Random
from billhook.falling import Alternating, Cyclic
from billhook.global_ranking import LAMP, Global
from billhook.granularity import NM, Block, Granularity, PerRow, Rows, Unstructured
from billhook.saliency import Averaged, FirstOrder, Fisher, Movement, Wanda
from billhook.schedule import Cubic, Hold, OneShot, Polynomial, Schedule

SCHEDULES: list[Schedule] = [
    Cubic(0.75, 2, 12, frequency=2),
    Cubic(0.5, 0, 11, frequency=4, initial_sparsity=0.25),
    Cubic(0.75, 1, 12, num_updates=4),
    Polynomial(0.5, 0, 8, frequency=2, exponent=1.0),
    OneShot(0.5, 3),
    OneShot(0.5, 1, 10, frequency=3),
    Hold(),
    Alternating(0.75, 1, 13, frequency=3),
    Cyclic(0.75, 1, 12, num_updates=7, cycles=2),
]
CRITERIA: list[Criterion] = [
    Magnitude(),
    Random(),
    Random(seed=3),
    FirstOrder(),
    Fisher(),
    Fisher(damp=0.0, gradients=2),
    Movement(),
    Wanda(),
]
GRANULARITIES: list[Granularity] = [
    Unstructured(),
    Block(1, 4),
    Block(4, 1),
    Block(8, 1),
    Block(8, 4),
    Block(16, 1),
    Block(2, 3, pooling="max"),
    NM(2, 4),
    NM(1, 4),
    Rows(),
    PerRow(),
]
ALLOCATIONS: list[Allocation] = [
    Uniform(),
    Global(),
    Global(groups=("second",), floor=0.01),
    LayerwiseConstant(),
    ErdosRenyi(),
    ErdosRenyi(kernel=True),
    LAMP(),
]


def public_classes(module: Any) -> set[type]:
    """The parts that a module offers: its public classes without the protocol or base class."""
    found = {getattr(module, name) for name in module.__all__}
    return {each for each in found if isinstance(each, type) and each not in _NOT_PARTS}


_NOT_PARTS = {Averaged, Schedule, Criterion, Granularity, Allocation, allocation.PrunableTensor}
MODULES: dict[Any, Sequence[object]] = {
    schedule: [each for each in SCHEDULES if not each.falls],
    falling: [each for each in SCHEDULES if each.falls],
    criterion: CRITERIA[:3],
    saliency: CRITERIA[3:],
    granularity: GRANULARITIES,
    allocation: [each for each in ALLOCATIONS if not each.needs_scores],
    global_ranking: [each for each in ALLOCATIONS if each.needs_scores],
}
