"""Low-rank adapters on frozen weights that are pruned while the adapters train."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import billhook
from billhook.errors import ConfigurationError
from billhook.selection import Rules

SCHEDULE = billhook.Cubic(0.75, 2, 8, frequency=2)
#: The adapters stay dense; frozen weights are pruned because a rule names them.
RULES: Rules = {"*.lora_*": None, "*.base.weight": 0.75}


class Adapted(nn.Module):
    """``W x + B A x``; with ``held`` the product has no entry where W is zero."""

    def __init__(self, base: nn.Linear, *, held: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, 2, bias=False)
        self.lora_b = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)
        self.held = held

    def delta(self) -> Tensor:
        product = self.lora_b.weight @ self.lora_a.weight
        return product.masked_fill(self.base.weight == 0, 0.0) if self.held else product

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.base(x)
        return base + F.linear(x, self.delta())

    @torch.no_grad()
    def merge(self) -> None:
        self.base.weight += self.delta()
        nn.init.zeros_(self.lora_b.weight)


class Network(nn.Sequential):
    """Two adapted layers."""

    def __init__(self, *, held: bool) -> None:
        torch.manual_seed(0)
        layers = [Adapted(nn.Linear(*sides), held=held) for sides in ((8, 16), (16, 4))]
        super().__init__(layers[0], nn.Tanh(), layers[1])

    def adapted(self) -> Iterator[tuple[str, Adapted]]:
        """The layers, each with its name."""
        for name, layer in self.named_children():
            if isinstance(layer, Adapted):
                yield name, layer


def _trained(*, held: bool) -> tuple[Network, billhook.Pruner]:
    model = Network(held=held)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    pruner = billhook.Pruner(model, optimizer, SCHEDULE, rules=RULES)
    before = copy.deepcopy(model)
    for step in range(12):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :4]).square().mean().backward()
        optimizer.step()
    for name, weight in model.named_parameters():
        was = before.get_parameter(name)
        if name.endswith("base.weight"):  # pruned, and nothing else happened to it
            assert torch.equal(weight, was * pruner.masks[name])
        elif "lora" in name:
            assert not torch.equal(weight, was)
            assert weight.all()
        else:
            assert torch.equal(weight, was)
    assert pruner.finalize().nonzero == 32 + 16
    return model, pruner


def test_zeros_return_to_weights_that_an_adapter_was_merged_into() -> None:
    model, pruner = _trained(held=False)
    sums = {f"{n}.base.weight": layer.base.weight + layer.delta() for n, layer in model.adapted()}
    for _, layer in model.adapted():
        layer.merge()
        assert layer.base.weight.all()
    pruner.apply_to(model)
    for name, mask in pruner.masks.items():
        assert torch.equal(model.get_parameter(name), sums[name].masked_fill(~mask, 0.0))


def test_an_adapter_that_spares_the_zeros_merges_without_a_change() -> None:
    model, pruner = _trained(held=True)
    x = torch.randn(5, 8)
    outputs = model(x)
    for _, layer in model.adapted():
        layer.merge()
    for name, mask in pruner.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
    torch.testing.assert_close(model(x), outputs)


def test_a_model_whose_weights_are_all_frozen_says_what_to_name() -> None:
    model = nn.Sequential(Adapted(nn.Linear(8, 16), held=False))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ConfigurationError, match=r'rules=\{"0.base.weight": 0.75\}'):
        billhook.Pruner(model, optimizer, SCHEDULE, rules={"*.lora_*": None})
