"""Check that a compiled model computes the same as its model: both run, and are compared.

The inputs are the example and variations of it: a program that took a branch of the example, or
lost a value that happens to be zero there, differs on one of these.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from billhook import torch_private
from billhook.errors import CompileError

__all__ = ["TOLERANCE", "Trials", "UnstableError", "buffers_kept", "unchanged", "variations"]

# Relative error, in the 2-norm, beyond which outputs differ: on the example inputs, and on
# variations of them, which may be worse conditioned.
TOLERANCE = 1e-5
VARIED_TOLERANCE = 1e-4
# A model that itself rounds by more allows a program this many times its own error, up to a limit.
TIMES_OWN_ERROR = 2
LARGEST_ERROR = 1e-3

Inputs = tuple[Any, ...]


class Trials:
    """A model's outputs on its example inputs and on variations of them.

    Args:
        model: Its forward may change its buffers, which are put back.
        inputs: The example inputs. Not changed.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        (name, given), *others = variations(inputs)
        self.cases = [(name, given, _run(model, given)), *self._taken(others)]

    def _taken(self, cases: Iterable[tuple[str, Inputs]]) -> Iterator[tuple[str, Inputs, Any]]:
        """With the model's outputs, where it takes the inputs."""
        for name, given in cases:
            with suppress(Exception):
                yield name, given, _run(self.model, given)

    def check(self, program: nn.Module, lengths: Iterable[Inputs] = ()) -> None:
        """Raises CompileError where the program's outputs differ from the model's, or it fails.

        A model that does not repeat its own outputs is an error of its own: nothing can be
        compiled that computes the same. ``lengths`` are the inputs of other lengths.
        """
        takes = getattr(program, "takes", lambda *_: True)
        longer = self._taken(("another length", given) for given in lengths)
        for name, inputs, expected in chain(self.cases, longer):
            if not takes(*inputs):
                continue  # a program of fixed sizes: time comes first, and was taken for the batch
            tolerance = VARIED_TOLERANCE if self.cases[0][0] != name else TOLERANCE
            try:
                given = _run(program, inputs)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise CompileError(f"the compiled model fails on {name} ({what})") from error
            where = _difference(given, expected, tolerance)
            if where is None:
                continue
            if _difference(_run(self.model, inputs), expected, tolerance) is not None:
                raise UnstableError(
                    f"the model's outputs differ from call to call on {name}, so no program can "
                    "be checked against them: make its forward a function of its inputs"
                )
            if self._is_as_exact(given, inputs, expected, tolerance):
                continue
            raise CompileError(
                f"the compiled model's outputs differ from the dense model's on {name}: {where}"
            )

    def _is_as_exact(self, given: Any, inputs: Inputs, expected: Any, tolerance: float) -> bool:
        """Whether outputs are no further from the model's in fp64 than its own may be.

        A deep model, or one that subtracts large numbers, rounds by more than the tolerance.
        """
        try:
            exact = _run(copy.deepcopy(self.model).double(), _each(_double, inputs))
        except Exception:  # whatever a model raises that only knows fp32
            return False
        ours, own, right = (dict(_parts(each)) for each in (given, expected, exact))
        return ours.keys() == own.keys() == right.keys() and all(
            _distance(ours[where], x, tolerance) is None or _rounds_alike(ours[where], x, y)
            for (where, x), y in zip(own.items(), right.values(), strict=True)
        )


class UnstableError(CompileError):
    """The model does not repeat its own outputs."""


def variations(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """The example inputs, and others of the same kind, always the same ones.

    Numbers are perturbed and replaced where they are zero, then scaled with their sign turned;
    integers change places. The last one has another batch size.

    >>> [(name, x.shape[0]) for name, (x,) in variations((torch.zeros(1, 4),))]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('the example inputs', 1), ('perturbed inputs', 1), ('scaled inputs', 1),
     ('another batch size', 2)]
    """
    random = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=random, dtype=torch.float32)

    def perturbed(x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            return torch.where(x == 0, noise(x), x * (1 + 0.1 * noise(x)))
        if x.dtype == torch.bool or x.is_complex():
            return x.clone()
        return x.flatten()[torch.randperm(x.numel(), generator=random)].view(x.shape)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return -2 * perturbed(x) if x.is_floating_point() else perturbed(x)

    first = next((x for x in torch_private.leaves(inputs) if torch.is_tensor(x) and x.dim()), None)
    batch = 0 if first is None else len(first)

    def other_batch(x: torch.Tensor) -> torch.Tensor:
        if not x.dim() or len(x) != batch:
            return x.clone()
        return torch.cat([x, perturbed(x)]) if batch == 1 else x[:1].clone()

    yield "the example inputs", _each(torch.clone, inputs)
    if batch:
        yield "perturbed inputs", _each(perturbed, inputs)
        yield "scaled inputs", _each(scaled, inputs)
        yield "another batch size", _each(other_batch, inputs)


def _each(function: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs) -> Inputs:
    def leaf(x: Any) -> Any:
        return function(x.detach()) if torch.is_tensor(x) and x.layout == torch.strided else x

    mapped: Inputs = torch_private.map_leaves(leaf, inputs)
    return mapped


def _run(model: nn.Module, inputs: Inputs) -> Any:
    """The model's outputs on a copy of the inputs; its buffers are put back."""
    with buffers_kept(model):
        return model(*_each(torch.clone, inputs))


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts back what calls of the model write to its buffers."""
    owners = [(module, dict(torch_private.buffers_of(module))) for module in model.modules()]
    tensors = {id(t): t for _, own in owners for t in own.values() if t is not None}
    counted = [t for t in tensors.values() if not t.is_inference()]
    saved = [(t, torch_private.version(t), t.clone()) for t in counted]
    try:
        yield
    finally:
        for module, own in owners:
            torch_private.buffers_of(module).clear()
            torch_private.buffers_of(module).update(own)
        for tensor, version, value in saved:
            if torch_private.version(tensor) != version:
                tensor.copy_(value)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Puts back what calls of the model have assigned to its modules, buffers included."""
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    try:
        with buffers_kept(model):
            yield
    finally:
        for module, own in attributes:
            vars(module).clear()
            vars(module).update(own)


def _difference(given: Any, expected: Any, tolerance: float) -> str | None:
    """Where and by how much outputs differ, None where they agree."""
    parts, wanted = dict(_parts(given)), dict(_parts(expected))
    if parts.keys() != wanted.keys():
        where = sorted(parts.keys() ^ wanted.keys())[0]
        return f"only one of them has the output{where}"
    for where, x in wanted.items():
        difference = _distance(parts[where], x, tolerance)
        if difference is not None:
            return f"the output{where} {difference}"
    return None


def _distance(given: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> str | None:
    if given.shape != wanted.shape or given.dtype != wanted.dtype:
        return f"is {given.dtype} {tuple(given.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
    if wanted.is_complex():
        given, wanted = torch.view_as_real(given.resolve_conj()), torch.view_as_real(wanted)
    if not wanted.is_floating_point():
        return None  # an index may turn with the last bit of what it is computed from
    given, wanted = given.double(), wanted.double()
    finite = wanted.isfinite()
    size = float(torch.linalg.vector_norm(wanted[finite]))
    error = float(torch.linalg.vector_norm((given - wanted)[finite]))
    if error <= tolerance * size:  # so that NaN is refused
        return None
    return f"has a relative error of {error / max(size, 1e-38):.1e} ({tolerance} is allowed)"


def _rounds_alike(given: torch.Tensor, own: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether a result's error is at most some times that of another, both against fp64."""
    if (given.shape, given.dtype) != (own.shape, own.dtype) or exact.dtype != torch.float64:
        return False
    norm = torch.linalg.vector_norm
    error, allowed = norm(given - exact), TIMES_OWN_ERROR * norm(own - exact)
    return bool(error <= allowed and error <= LARGEST_ERROR * norm(exact))  # NaN is refused


def _double(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x.clone()


def _parts(
    value: Any, where: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors and numbers of an output, in whatever containers and objects, by their path."""
    if torch.is_tensor(value):
        yield where, _strided(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fciub":
        yield where, torch.as_tensor(value)
    elif isinstance(value, float | complex):
        yield where, torch.tensor(value)
    elif id(value) not in seen:
        for name, part in _children(value):
            yield from _parts(part, f"{where}{name}", seen | {id(value)})


def _strided(x: torch.Tensor) -> torch.Tensor:
    if x.is_nested:
        return torch.cat([part.flatten() for part in x.unbind()])
    return x if x.layout == torch.strided else x.to_dense()


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    if isinstance(value, type | nn.Module) or callable(value):
        return []
    own = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        names = [slots] if isinstance(slots, str) else list(slots)
        names += [name for name, part in vars(kind).items() if torch.is_tensor(part)]
        own |= {name: getattr(value, name, None) for name in names}
    return [(f".{name}", part) for name, part in own.items()]
