"""What 8 bits change: error and agreement on held-out batches, and the layer that did most."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from billhook import torch_private
from billhook.inference import graph
from billhook.inference.int8 import reference
from billhook.inference.int8.floats import values_of
from billhook.inference.int8.ops import INPUT, Program
from billhook.inference.report import Accuracy

__all__ = ["compare", "worst_layer"]


def compare(
    model: Callable[[Any], Any],
    compiled: Callable[[Any], Any],
    batches: Sequence[Any],
    held_out: bool,
) -> Accuracy:
    """The error of the first output, in the 2-norm over all batches, and how often the largest of
    its last dimension (dimension 1 of maps) stays the same.
    """
    distance = size = 0.0
    same = total = samples = 0
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        wanted, given = first(model(*inputs)), first(compiled(*inputs))
        distance += float((given - wanted).double().square().sum())
        size += float(wanted.double().square().sum())
        dim = 1 if wanted.dim() == 4 else -1
        agree = given.argmax(dim) == wanted.argmax(dim)
        same, total, samples = same + int(agree.sum()), total + agree.numel(), samples + 1
    error = (distance / max(size, 1e-38)) ** 0.5
    return Accuracy(error, same / max(total, 1), total, held_out)


def first(output: Any) -> torch.Tensor:
    """The first tensor of a model's output."""
    tensor: torch.Tensor = next(x for x in torch_private.leaves(output) if torch.is_tensor(x))
    return tensor


def worst_layer(
    ops: Sequence[graph.Op], program: Program, batch: torch.Tensor
) -> tuple[str, float]:
    """The operation of fp32 whose values lose most, beside what its inputs had lost, and its error.

    Measured on the first sample with the integer reference.
    """
    values = {
        name: value[0]
        for name, value in zip(
            ["", *(op.name for op in ops)], values_of(ops, batch[:1]).values(), strict=True
        )
    }
    errors: dict[int, float] = {}
    worst, most = "the input", 0.0

    def observe(index: int, unrounded: np.ndarray) -> None:
        nonlocal worst, most
        scale = program.bytes_range(index)
        name = "" if index == INPUT else program.ops[index].name
        inputs = () if index == INPUT else program.ops[index].inputs
        before = max((errors.get(value, 0.0) for value in inputs), default=0.0)
        errors[index] = before
        if name not in values or values[name].numel() != unrounded.size:
            return
        wanted = values[name].double().numpy().reshape(-1)
        got = (reference.to_bytes(unrounded).reshape(-1) - scale.zero) * scale.step
        errors[index] = float(
            np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-38)
        )
        if errors[index] - before > most:
            worst, most = name or "the input", errors[index] - before

    reference.evaluate(program, batch[0].numpy(), observe)
    return worst, most
