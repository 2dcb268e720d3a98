"""The other ways to run a model: each computes what the model does, or says why it does not run."""

import warnings

import pytest
import torch
from torch import nn

from billhook.bench.peers import PEERS, peer
from billhook.errors import ConfigurationError

#: torch.compile takes minutes; billhook's own programs have tests of their own.
FORMS = [name for name in PEERS if not name.startswith(("torch", "billhook"))]
SHAPES = {"convolutional": (3, 8, 8), "linear": (16,)}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "linear":
        layers = [nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)]
    else:
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_form_computes_what_the_model_does(name: str, kind: str) -> None:
    model, shape = network(kind), SHAPES[kind]
    x, batch = torch.randn(1, *shape), torch.randn(32, *shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = peer(name, model, (x,), 1, [(batch,)])()
        except ConfigurationError as error:
            if "is not installed" in str(error):
                pytest.skip(str(error))
            assert name == "onnxruntime int8 dynamic"
            assert kind == "convolutional"
            return
        wanted = model(x)
    given = torch.as_tensor(made[0])  # type: ignore[index]
    # On AVX2 the sums of ONNX Runtime's dense layers in 8 bits saturate: up to 43% off here.
    assert torch.cosine_similarity(given.flatten(), wanted.flatten(), dim=0) > 0.8
    if "int8" not in name:
        torch.testing.assert_close(given.view_as(wanted), wanted, rtol=1e-4, atol=1e-5)
