"""What masks on a GPU add to the host's time of a step, where there is no GPU.

    python -m tests.backends.host_time

Kernels are launched and do nothing; so this needs no Triton. Prints milliseconds for backward
passes to 200 small tensors and for steps, the fastest of 300, with and without a pruner in turn.
"""

import gc
import time
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import billhook
from billhook.backends import nans, native, triton
from tests.backends.stand_in import DoneEvent


def without_kernels(patch: pytest.MonkeyPatch) -> None:
    """Treat tensors of the CPU as a GPU's whose kernels do nothing."""
    kernels = Mock(BLOCK=1024, PIECE=8192, BINS=256, DIGITS=((23, 8), (15, 8), (7, 8), (0, 7)))
    patch.setattr(triton, "_kernels", lambda: kernels)
    patch.setattr(triton, "_int", lambda size: size)
    patch.setattr(triton, "log_failure", Mock(side_effect=AssertionError("it failed")))
    patch.setattr(nans, "record_event", lambda device: DoneEvent())
    patch.setattr(triton, "is_available", lambda device: True)
    patch.setattr(triton.Batch, "_launch", lambda *args, **constants: None)
    patch.setattr(native, "in_main_memory", lambda tensor: False)


class Step:
    """A backward pass to small tensors, and a step.

    Args:
        tensors: how many.
        first: the step of the first mask; None: no pruner.
        fused: AdamW, fused; else SGD, foreach.
    """

    def __init__(self, tensors: int, *, first: int | None, fused: bool = False) -> None:
        model = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(tensors))
        self.weights = list(model.parameters())
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.weights, lr=1e-3, fused=True)
            if fused
            else torch.optim.SGD(self.weights, lr=1e-3, foreach=True)
        )
        if first is not None:
            billhook.Pruner(
                model, self.optimizer, billhook.OneShot(0.5, first, 100_000, frequency=50_000)
            )

    def __call__(self) -> tuple[float, float]:
        """The thread's time of the backward pass and of the step, in ms."""
        for weight in self.weights:
            weight.grad = None
        grads = [torch.ones_like(weight) for weight in self.weights]
        start = time.thread_time_ns()
        torch.autograd.backward(self.weights, grads)
        middle = time.thread_time_ns()
        self.optimizer.step()
        return (middle - start) / 1e6, (time.thread_time_ns() - middle) / 1e6


def main() -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        without_kernels(patch)
        for name, fused in (("SGD", False), ("fused AdamW", True)):
            gc.collect()  # pruners are asked about the steps of other optimizers
            plain = Step(200, first=None, fused=fused)
            steps = {"plain": plain}
            steps |= {"nothing masked yet": Step(200, first=50_000, fused=fused)}
            steps |= {"masks": Step(200, first=0, fused=fused)}
            times: dict[str, list[tuple[float, float]]] = {each: [] for each in steps}
            for _ in range(300):
                for each, step in steps.items():
                    times[each].append(step())
            fastest = {k: [min(t) for t in zip(*v, strict=True)] for k, v in times.items()}
            for each, (backward, step_) in fastest.items():
                added = backward + step_ - sum(fastest["plain"])
                print(f"{name}, {each}: {backward:.2f} + {step_:.2f} ms, adds {added:.2f}")


if __name__ == "__main__":
    main()
