"""Every part of a pruner, under DDP and FSDP2."""

from typing import Any

from torch.nn.parallel import DistributedDataParallel

import billhook
from billhook.allocation import Allocation
from billhook.draw import needs
from billhook.errors import ConfigurationError
from billhook.global_ranking import LAMP
from billhook.granularity import Block, Granularity, Unstructured

from ...conformance.parts import ALLOCATIONS, CRITERIA, GRANULARITIES, SCHEDULES
from .common import REDRAWN, assert_equals_the_run_alone, net, shard


def every_part_draws_the_same_masks_on_every_rank() -> None:
    """Each part of the conformance suite, and pairs, under DDP and FSDP2."""
    parts: list[dict[str, Any]] = [
        *({"schedule": schedule} for schedule in SCHEDULES),
        *({"criterion": criterion} for criterion in CRITERIA if needs(criterion) != "inputs"),
        *({"granularity": granularity} for granularity in GRANULARITIES),
        *({"allocation": allocation} for allocation in ALLOCATIONS if _spreads(allocation)),
        {"allocation": billhook.Global(floor=0.1), "granularity": Block(2, 3)},
        {"allocation": LAMP(), "regrow": False},
        {"regrow": billhook.GradientRegrowth(0.4)},
    ]
    for options in parts:
        for wrapped in (DistributedDataParallel, shard):
            schedule = options.get("schedule", REDRAWN)
            rules = _rules(options.get("granularity", Unstructured()), schedule.final_sparsity)
            model = wrapped(net(sparse=schedule.holds_zeros))
            assert_equals_the_run_alone(model, **({"rules": rules} | options))


def _spreads(allocation: Allocation) -> bool:
    """Whether it keeps some of every layer here, and names none."""
    return allocation not in (billhook.Global(), *(a for a in ALLOCATIONS if "groups=" in repr(a)))


def _rules(granularity: Granularity, sparsity: float) -> dict[str, None]:
    """The layers left dense: those that are smaller than the pattern, and the one of one row."""
    small = {"4.weight": None}
    for name, parameter in net().named_parameters():
        try:
            granularity.kept(parameter.shape, sparsity)
        except ConfigurationError:
            small |= {name: None} if parameter.dim() == 2 else {}
    return small
