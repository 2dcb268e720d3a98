"""A step of everything before anything: what fails, fails at once, and hours can be told."""

from pathlib import Path

import pytest
import torch

from billhook.errors import ConfigurationError
from billhook.study.grid import Plan, plan
from billhook.study.run.rehearsal import estimated_hours, rehearse
from billhook.study.spec import Study
from billhook.study.subject import Place
from tests.study.in_process import HERE


@pytest.fixture(scope="module")
def grid(tiny: Study) -> Plan:
    return plan(tiny)


def test_every_arm_takes_a_step_and_nothing_else_changes(grid: Plan) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds = rehearse(grid, HERE)
    assert set(seconds) == {
        ("large-dense", "", 64.0),
        ("small-dense", "", 12.0),
        ("large-sparse", "standard", 64.0),
    }
    assert all(each > 0 for each in seconds.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_hours_are_those_of_all_steps(grid: Plan) -> None:
    seconds = {(t.arm, t.scheme, t.width): 36.0 for t in grid.trials}
    assert estimated_hours(grid, seconds) == pytest.approx(0.6 * len(grid.runs))  # of 60 steps


OWN = """
import torch
from torch import nn
class Once(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(768, int(width)), nn.Linear(int(width), 10)
    def forward(self, x):
        if torch.is_grad_enabled():
            raise ArithmeticError("not while it trains")
        return self.b(self.a(x.flatten(1)))
def network(width):
    return Once(width)
"""


def test_what_fails_in_a_step_is_named(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / "own_once.py").write_text(OWN)
    recipe = tiny.recipe.changed(data={"pixels": 16, "train": 0, "validation": 0.2})
    values = {"family": "own_once:network", "task": "classification", "recipe": recipe}
    values |= {"choose_by": "loss", "large_width": 32, "small_widths": (8,)}
    study = Study.model_validate(tiny.model_dump() | values)
    place = Place(None, tmp_path)
    grid = plan(study, place)
    with pytest.raises(ConfigurationError, match="one step of large-dense at width 32 fails"):
        rehearse(grid, place)
