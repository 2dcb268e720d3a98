"""A captured network computes what torch computes, whatever its graph and whichever kernels run."""

import random

import pytest
import torch

from billhook.inference import kernels
from billhook.inference.graph import Layer, UnsupportedError, capture_graph
from billhook.inference.graph.soundness import after, check_choices, check_graph
from billhook.inference.network.network import Network
from billhook.inference.plan import Choice

from .random_networks import RandomNetwork
from .test_linear_kernels import ISAS

PACKED = [Choice("spmm_packed", vectors) for vectors in range(1, kernels.MAX_VECTORS + 1)]
pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


@pytest.mark.parametrize("seed", range(40))
def test_a_random_network_equals_torch(seed: int) -> None:
    rng = random.Random(seed)
    model = RandomNetwork(seed, steps=rng.choice([4, 8, 12, 18]))
    try:
        graph, _ = capture_graph(model, (torch.zeros(1, *model.input_shape),))
    except UnsupportedError as error:
        assert "changes in place" in str(error)  # noqa: PT017, all else must be captured
        return
    ops = graph.ops
    choices: dict[str, Choice] = {}
    for index, op in reversed(list(enumerate(ops))):
        if isinstance(op, Layer):
            follower = after(ops, index)
            runs = list(op.kernels_for(follower))
            packed = follower is not None and choices.get(follower.name) in PACKED
            if "fused" in runs and not packed:
                runs.remove("fused")
            kernel = rng.choice(runs)
            vectors = kernels.MAX_VECTORS if kernel == "fused" else rng.randint(1, 16)
            choices[op.name] = Choice(kernel, vectors)
    check_graph(graph)
    check_choices(ops, choices)
    network = Network(graph, choices, rng.choice(ISAS))
    for batch in (1, 3, 1):
        x = 3 * torch.randn(batch, *model.input_shape)
        with torch.no_grad():
            wanted = model(x.clone())
        assert network(x).shape == wanted.shape
        assert float((network(x) - wanted).norm()) <= 2e-5 * float(wanted.norm())
