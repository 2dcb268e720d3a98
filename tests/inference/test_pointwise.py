"""The functions of elements: relative errors below 1e-6 over the whole range, NaN stays NaN."""

import math

import pytest
import torch

from billhook.inference import isa, kernels
from billhook.inference.graph import Elementwise, Graph
from billhook.inference.network.network import Network

from ..fuzz.reference import FUNCTIONS

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")

PARAMETERS = {"affine": (1.5, -0.25), "clamp": (-0.5, 2.0), "leaky_relu": (0.1, 0.0)}
PARAMETERS |= {"elu": (1.3, 0.0), "equal": (1.0, 0.0), "choose": (2.0, -3.0)}


def computed(function: str, x: torch.Tensor, number: int) -> torch.Tensor:
    parameters = PARAMETERS.get(function, (0.0, 0.0))
    shape = (1, 1, len(x))
    op = Elementwise("f", (-1,), shape, function=function, parameters=parameters)
    y: torch.Tensor = Network(Graph.of_maps([op], shape), {}, number)(x.view(1, *shape))
    return y.flatten()


@pytest.mark.parametrize("own", isa.supported("fp32"))
@pytest.mark.parametrize("function", kernels.FUNCTIONS)
def test_relative_errors(function: str, own: str) -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(20_001, generator=generator) * 3
    small = torch.randn(5_000, generator=generator) * 1e-3
    far = (torch.rand(5_000, generator=generator) - 0.5) * 160
    x = torch.cat([near, small, far, torch.tensor([0.0, -0.0, 1.0, 6.0, -3.0])])
    wanted = FUNCTIONS[function](x.double(), *PARAMETERS.get(function, (0.0, 0.0)))
    given = computed(function, x, isa.index_of(own, "fp32")).double()
    finite = wanted.isfinite() & (wanted.abs() < 3e38) & (wanted.abs() > 2e-38)
    assert torch.equal(given.isnan(), wanted.isnan())
    error = (given - wanted).abs()[finite] / wanted.abs()[finite]
    # Where terms of opposite signs meet, and far down GELU's tails, the error is relative to these.
    more = {"affine": 0.25, "log": 0.02, "gelu": 1e-6, "gelu_tanh": 1e-6}.get(function, 0.0)
    error = (given - wanted).abs()[finite] / (wanted.abs()[finite] + more)
    assert float(error.max()) <= (2e-6 if "gelu" in function else 1e-6)


@pytest.mark.parametrize("function", kernels.FUNCTIONS)
def test_nan_stays_nan(function: str) -> None:
    if function in ("equal", "choose"):
        return
    assert computed(function, torch.full((17,), math.nan), kernels.isa()).isnan().all()
