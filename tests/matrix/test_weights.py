"""Which weights and scores can be ranked and zeroed, and which are refused before any harm."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.utils._pytree import tree_map

import billhook
from billhook import OneShot
from billhook.errors import ConfigurationError, MaskError
from billhook.mask import select

from .common import assert_held, mlp, train


class Wrapped(Tensor):
    """A wrapper subclass: it says it is a plain CPU tensor, but its values lie in another one."""

    held: Tensor
    read_only = False

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapped":
        wrapped = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        wrapped.held = inner
        return wrapped

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        if cls.read_only and name.endswith("_"):
            raise NotImplementedError(name)
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, cls) else x, (args, kwargs or {}))
        out = func(*args, **kwargs)
        return cls(out) if name in ("aten::detach", "aten::clone", "aten::zeros_like") else out


class ReadOnly(Wrapped):
    read_only = True


def _of(change: Callable[[Tensor], Tensor], **flags: bool) -> nn.Linear:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(change(layer.weight.detach()), **flags)
    return layer


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (lambda: _of(lambda w: w.to(torch.complex64)), "is torch.complex64, and complex numbers"),
        (lambda: _of(lambda w: w.to(torch.float8_e4m3fn)), "is torch.float8_e4m3fn: billhook"),
        (lambda: _of(lambda w: w.to(torch.int8), requires_grad=False), "is torch.int8: billhook"),
        (lambda: _of(Tensor.to_sparse), "has layout torch.sparse_coo"),
        (lambda: _of(lambda w: w[:1].expand(4, 4)), "shares memory between its own elements"),
        (lambda: _of(ReadOnly), "is a ReadOnly, whose values billhook cannot write"),
        (lambda: nn.Linear(4, 4, device="meta"), 'is on the device "meta"'),
        (torch.inference_mode()(lambda: nn.Linear(4, 4)), "was made in inference_mode"),
        (lambda: nn.LazyLinear(4), "has no values yet: run one batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_weights_that_cannot_hold_zeros_are_refused_by_name(
    layer: Callable[[], nn.Module], cause: str
) -> None:
    model = layer()
    with pytest.raises(ConfigurationError, match=f"^'weight' is selected for pruning but {cause}"):
        billhook.Pruner(model, optim.SGD([torch.ones(1)]), OneShot(0.5), rules={"weight": 0.5})


Score = Callable[[Tensor, Any, str], Any]


@pytest.mark.parametrize(
    ("score", "cause"),
    [
        (
            lambda w, grad, name: w.detach().abs().bfloat16(),
            "dtype torch.bfloat16, not",
        ),
        (lambda w, grad, name: w.detach().abs().double(), "dtype torch.float64, not"),
        (lambda w, grad, name: w.detach().to(torch.complex64), "dtype torch.complex64.* no order"),
        (
            lambda w, grad, name: w.detach().abs().sum(1),
            r"for '0.weight' have shape \(20,\), not",
        ),
        (lambda w, grad, name: w.detach().abs().T, r"for '0.weight' have shape \(10, 20\)"),
        (lambda w, grad, name: w.detach().abs().to("meta"), "device meta, not cpu"),
        (lambda w, grad, name: w.detach().abs().to_sparse(), "layout torch.sparse_coo"),
        (lambda w, grad, name: w.detach().tolist(), "returned a list for '0.weight'"),
        (lambda w, grad, name: w.detach() / 0.0 * 0.0, "200 of 200 scores are NaN"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at attach", "at an update"])
def test_scores_are_checked_at_every_update(score: Score, cause: str, late: bool) -> None:
    model = mlp()
    before = model.get_parameter("0.weight").detach().clone()
    bad = not late

    class Criterion:
        def __call__(self, weight: Tensor, grad: Tensor | None, name: str) -> Any:
            return score(weight, grad, name) if bad else weight.detach().abs()

    criterion = Criterion()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    if not late:
        with pytest.raises(MaskError, match=cause):
            billhook.Pruner(model, optimizer, OneShot(0.5), criterion=criterion)
        assert torch.equal(model.get_parameter("0.weight"), before)
        return
    pruner = billhook.Pruner(model, optimizer, OneShot(0.5, 0, 2, frequency=2), criterion=criterion)
    masks = pruner.masks
    train(model, optimizer, 1)
    bad = True
    with pytest.raises(MaskError, match=cause):
        train(model, optimizer, 1)
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())
    assert_held(pruner, model)


def test_scores_that_are_views_or_wrapped_are_ranked_by_their_values() -> None:
    values = torch.tensor([3.0, -1.0, 2.0, -4.0, 0.5])
    expected = select(values, 2)
    negated = torch.complex(torch.zeros(5), -values).conj().imag  # a view that negates when read
    assert negated.is_neg()
    for scores in (negated, Wrapped(values), values.repeat_interleave(2)[::2]):
        assert torch.equal(torch.as_tensor(select(scores, 2)), expected)


def test_random_scores_do_not_depend_on_the_default_device() -> None:
    expected = billhook.Random(seed=1)(torch.zeros(2, 3), None, "weight")
    weight = torch.zeros(2, 3)
    with torch.device("meta"):
        assert torch.equal(billhook.Random(seed=1)(weight, None, "weight"), expected)
