"""Example inputs by position and by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import billhook
from billhook.errors import ConfigurationError


class Net(nn.Module):
    """Three inputs, one of them optional."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Any:
        y = self.layer(x)
        y = y if mask is None else y * mask
        return {"y": y if scale is None else y * scale}


@pytest.mark.parametrize("names", [("x",), ("scale", "x"), ("mask", "x"), ("x", "mask", "scale")])
def test_a_dict_is_the_same_as_the_arguments_it_names(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    inputs = {name: torch.rand(2, 16) for name in names}
    fast = billhook.compile(model, inputs)
    expected = model(**inputs)["y"].detach()
    torch.testing.assert_close(fast(**inputs)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": torch.rand(2, 16)}, "no positional argument 'y', it has x, mask, scale"),
        ({"mask": torch.rand(2, 16)}, "the example inputs lack 'x'"),
    ],
)
def test_names_that_do_not_fit_are_said(inputs: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        billhook.compile(Net().eval(), inputs)
