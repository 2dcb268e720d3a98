"""What looks like an oversight is logged as a warning when a Pruner attaches."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import billhook


def _warnings(model: nn.Module, caplog: pytest.LogCaptureFixture, **options: Any) -> Sequence[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level("INFO", logger="billhook"):
        billhook.Pruner(model, optimizer, billhook.Cubic.over(100, 0.9), **options).detach()
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_fewer_weights_than_rows(caplog: pytest.LogCaptureFixture) -> None:
    thin = nn.Conv2d(1, 32, 3)  # 29 of 288 weights at 90%
    (message,) = _warnings(nn.Sequential(thin, nn.Conv2d(32, 8, 3)), caplog)
    assert message.startswith("'0.weight' would keep 29 of 288 weights, fewer than its 32 rows")


@pytest.mark.parametrize("options", [{"rules": {"": 0.5}}, {"allocation": billhook.Global()}])
def test_as_many_weights_as_rows_or_a_budget_that_moves(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    if "rules" in options:
        options = {"rules": {"weight": 0.5}}
    assert not _warnings(nn.Conv2d(1, 32, 3), caplog, **options)


class _Own(nn.Module):
    def __init__(self, own: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8, bias=False)
        self.table = nn.Parameter(torch.ones(own, 8))


def test_most_of_the_parameters_stay_dense(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = _warnings(_Own(17), caplog)
    assert message.startswith("most of the parameters stay dense, 136 of 264, such as 'table'")


@pytest.mark.parametrize(("own", "rules"), [(16, None), (17, {"table": None})])
def test_half_or_by_rule(own: int, rules: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert not _warnings(_Own(own), caplog, rules=rules)


def test_adapters(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"lora_A": nn.Linear(64, 4), "base": nn.Linear(64, 64)})
    (message,) = _warnings(model, caplog)
    assert message.startswith("1 tensors of adapters are pruned, such as 'lora_A.weight'")
