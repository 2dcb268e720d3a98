"""What every test of the matrix needs: a small model, its data, and the invariant."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from billhook import Pruner
from billhook.selection import named_weights

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 5)
    )


def batch(step: int, rank: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(8, 10, generator=generator), torch.randint(5, (8,), generator=generator)


def backward(model: nn.Module, step: int) -> None:
    weight = next(model.parameters())
    x, y = batch(step)
    nn.functional.cross_entropy(model(x.to(weight)).float(), y.to(weight.device)).backward()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, first: int = 0
) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def zeros_are_positive(tensor: Tensor, mask: Tensor) -> bool:
    """Whether every bit of every masked weight is 0."""
    return not tensor.detach()[~mask].view(BITS[tensor.itemsize]).any()


def assert_held(pruner: Pruner, model: nn.Module) -> None:
    """Masked weights and their gradients are +0.0."""
    parameters = {weight.name: weight.parameter for weight in named_weights(model)}
    for name, mask in pruner.masks.items():
        parameter = parameters[name]
        assert zeros_are_positive(parameter, mask), name
        if parameter.grad is not None:
            grad = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
            assert zeros_are_positive(grad, mask), name


def same(first: Iterable[Tensor], second: Iterable[Tensor]) -> bool:
    """Whether the tensors are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
