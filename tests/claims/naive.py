"""Gradual pruning as the paper's graph has it, written for clarity alone.

The raw weights live in a dictionary of their own and are multiplied by masks in the forward pass;
masked weights are put back after every step and their optimizer state is set to zero.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def cubic(step: int, final: float, begin: int, end: int) -> float:
    return final + (0.0 - final) * (1 - (step - begin) / (end - begin)) ** 3


def smallest_first(weight: Tensor, sparsity: float) -> Tensor:
    """Keep the largest |w| in fp32; of equal ones the lower index (a stable sort)."""
    keep = round((1 - sparsity) * weight.numel())
    order = torch.sort(weight.detach().float().abs().flatten(), descending=True, stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order.indices[:keep]] = True
    return mask.view(weight.shape)


class NaiveRun:
    """One training run; ``step()`` takes one step and returns the masked weights."""

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        make_optimizer: OptimizerFactory,
        window: tuple[int, int, int],
        final: float,
    ) -> None:
        self.model = model
        self.raw = {
            name: value.detach().clone().requires_grad_()
            for name, value in model.named_parameters()
        }
        self.masks = {name: torch.ones_like(self.raw[name], dtype=torch.bool) for name in names}
        self.optimizer = make_optimizer(list(self.raw.values()))
        self.begin, self.end, self.frequency = window
        self.final = final
        self.taken = 0
        self.returned = 0
        self._update_masks()

    def seen(self) -> dict[str, Tensor]:
        """What the forward pass sees: raw * mask."""
        return {
            name: raw * self.masks[name] if name in self.masks else raw
            for name, raw in self.raw.items()
        }

    def step(self, loss: Callable[[Any], Tensor], clip: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        loss(lambda *args: torch.func.functional_call(self.model, self.seen(), args)).backward()
        torch.nn.utils.clip_grad_norm_(self.raw.values(), clip)
        before = {name: raw.detach().clone() for name, raw in self.raw.items()}
        self.optimizer.step()
        self.taken += 1
        self._hold(before)
        self._update_masks()
        self._hold({name: raw.detach().clone() for name, raw in self.raw.items()})
        return {name: value.detach() for name, value in self.seen().items()}

    @torch.no_grad()
    def _hold(self, values: dict[str, Tensor]) -> None:
        for name, mask in self.masks.items():
            raw = self.raw[name]
            raw.copy_(torch.where(mask, raw, values[name]))
            for state in self.optimizer.state[raw].values():
                if isinstance(state, Tensor) and state.shape == raw.shape:
                    state.mul_(mask)

    def _update_masks(self) -> None:
        past = self.taken - self.begin
        if past < 0 or self.taken > self.end or past % self.frequency:
            return
        sparsity = cubic(self.taken, self.final, self.begin, self.end)
        for name, old in self.masks.items():
            self.masks[name] = smallest_first(self.raw[name], sparsity)
            self.returned += int((self.masks[name] & ~old).sum())
