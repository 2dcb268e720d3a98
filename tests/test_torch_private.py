"""Each of torch's private names does what billhook takes it for."""

import contextlib
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from billhook import torch_private as private


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_have_a_base(kind: type[nn.Module]) -> None:
    assert issubclass(kind, private.ConvNd)
    assert not issubclass(kind, private.ConvTransposeNd)
    transposed = getattr(nn, kind.__name__.replace("Conv", "ConvTranspose"))
    assert issubclass(transposed, private.ConvTransposeNd)
    assert issubclass(transposed, private.ConvNd)


def test_batch_normalisations_have_a_base() -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, private.BatchNorm) for kind in kinds)
    assert all(issubclass(kind, private.Norm) for kind in (*kinds, nn.InstanceNorm2d))
    assert not issubclass(nn.LayerNorm, private.Norm)
    assert not issubclass(nn.InstanceNorm2d, private.BatchNorm)


def test_version_counts_writes_in_place_of_a_tensor_and_its_views() -> None:
    tensor = torch.zeros(3)
    before = private.version(tensor)
    tensor.sum()
    assert private.version(tensor) == before
    tensor[1:].add_(1)
    assert private.version(tensor) == before + 1
    tensor.data.add_(1)  # what billhook cannot see
    assert private.version(tensor) == before + 1


def test_versions_of_many() -> None:
    tensors = [torch.zeros(1), torch.zeros(1).add_(1)]
    assert private.versions([*tensors, None]) == [0, 1, -1]


@pytest.mark.parametrize(
    "other",
    [
        None,
        torch.zeros(3, 2),
        torch.zeros(3, 3),
        torch.zeros(2, 3).t(),
        torch.zeros(2, 3, 1),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        nn.Parameter(torch.zeros(2, 3)),
        torch.zeros(2, 6)[:, ::2],
        torch.zeros(3, 2).t(),
    ],
)
def test_what_is_not_alike(other: Tensor | None) -> None:
    alike = private.alike([torch.zeros(2, 3), torch.zeros(1)])
    assert alike([torch.ones(2, 3), torch.ones(1)])
    assert alike([torch.ones(3, 3)[:2], torch.ones(2)[1:]])  # wherever it lies
    with torch.no_grad():
        assert alike([torch.ones(2, 3), torch.ones(1)])
    assert not alike([other, torch.ones(1)])


def test_the_parts_of_a_sparse_tensor_are_its_own() -> None:
    places, numbers = torch.tensor([[1, 0, 1]]), torch.tensor([1.0, 2.0, 4.0])
    tensor = torch.sparse_coo_tensor(places, numbers, (3,), check_invariants=True)
    indices, values = private.sparse_parts(tensor)
    assert indices.tolist() == [[1, 0, 1]]
    values[1] = 0.0
    assert tensor.to_dense().tolist() == [0.0, 5.0, 0.0]


def test_attention_of_one_width() -> None:
    assert private.has_one_width(nn.MultiheadAttention(4, 2))
    assert not private.has_one_width(nn.MultiheadAttention(4, 2, kdim=3))


def test_leaves_of_containers() -> None:
    tree = {"a": [1, (2,)], "b": None}
    assert private.leaves(tree) == [1, 2, None]
    assert private.map_leaves(str, tree) == {"a": ["1", ("2",)], "b": "None"}


def test_what_a_module_owns() -> None:
    child, norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)
    module = nn.Sequential(child, child, norm)
    assert dict(private.children_of(module)) == {"0": child, "1": child, "2": norm}
    assert dict(private.parameters_of(child)) == {"weight": child.weight, "bias": None}
    own = private.buffers_of(norm)
    assert set(own) == {"running_mean", "running_var", "num_batches_tracked"}
    own["running_mean"] = torch.ones(2)
    assert norm.running_mean is own["running_mean"]


def test_hooks_of_a_module() -> None:
    module = nn.Linear(1, 1)
    after, before = (lambda *_: None), (lambda *_: None)
    module.register_forward_hook(after)
    module.register_forward_pre_hook(before)
    assert list(private.forward_hooks(module)) == [after]
    assert list(private.forward_pre_hooks(module)) == [before]


def test_hooks_of_a_gradient() -> None:
    parameter = nn.Parameter(torch.ones(1))
    assert list(private.gradient_hooks(parameter)) == []
    handle = parameter.register_post_accumulate_grad_hook(print)
    assert list(private.gradient_hooks(parameter)) == [print]
    handle.remove()
    assert list(private.gradient_hooks(parameter)) == []


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_weights_of_a_recurrent_layer(kind: type[nn.LSTM]) -> None:
    rnn = kind(2, 3, num_layers=2)
    names = private.flat_weights_names(rnn)
    assert names == [name for name, _ in rnn.named_parameters()]
    x = torch.ones(4, 1, 2)
    weight = rnn.get_parameter("weight_ih_l0")
    rnn.weight_ih_l0 = nn.Parameter(torch.zeros_like(weight))
    private.gather_flat_weights(rnn)
    output = rnn(x)[0]
    assert torch.equal(output, rnn(2 * x)[0])  # the input's weight is 0: it is what is read


def test_padding_by_side() -> None:
    assert private.padding_by_side(nn.Conv2d(1, 1, 3, padding=(1, 2))) == [2, 2, 1, 1]
    same = nn.Conv2d(1, 1, (5, 3), padding="same")
    x = torch.rand(1, 1, 6, 5)
    padded = F.pad(x, private.padding_by_side(same))
    assert torch.equal(F.conv2d(padded, same.weight, same.bias), same(x))


def test_callbacks_at_the_end_of_a_backward_pass() -> None:
    calls: list[str] = []

    def hook(parameter: Tensor) -> None:
        assert private.in_backward()
        private.call_after_backward(lambda: calls.append(f"end, {parameter.grad is not None}"))
        calls.append("hook")

    parameter = nn.Parameter(torch.ones(1))
    parameter.register_post_accumulate_grad_hook(hook)
    assert not private.in_backward()
    (2 * parameter).backward()
    assert calls == ["hook", "end, True"]
    assert not private.in_backward()


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_lives_as_long_as_its_backward_pass_whether_that_fails_or_not(
    fails: bool,
) -> None:
    found: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def hook(parameter: Tensor) -> None:
        def callback() -> None:
            alive.append(found[0]() is not None)

        found.append(weakref.ref(callback))
        private.call_after_backward(callback)
        if fails:
            raise ValueError("out of memory")

    parameter = nn.Parameter(torch.ones(1))
    parameter.register_post_accumulate_grad_hook(hook)
    with pytest.raises(ValueError, match="memory") if fails else contextlib.nullcontext():
        (2 * parameter).backward()
    assert found[0]() is None
    assert alive == ([] if fails else [True])


class Wrapper(Tensor):
    __torch_function__ = private.no_torch_function

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: object, types: object, args: object = (), kwargs: object = None
    ) -> Tensor:
        del types, args, kwargs
        return torch.tensor([ord(letter) for letter in str(func)])


def test_a_subclass_without_memory_is_asked_for_each_operation() -> None:
    made = private.wrapper(Wrapper, (2, 3), torch.float32)
    assert (type(made), made.shape, made.dtype) == (Wrapper, torch.Size([2, 3]), torch.float32)
    assert made.device.type == "cpu"
    assert "".join(map(chr, torch.abs(made).tolist())) == "aten.abs.default"


def test_transformed_tensors() -> None:
    x, given = torch.ones(2), []

    def seen(y: Tensor) -> Tensor:
        given.append(private.is_transformed(y))
        return y.sum()

    torch.func.vmap(seen)(x)
    torch.func.grad(seen)(x)
    torch.func.functionalize(seen)(x)
    assert given == [True] * 3
    assert not private.is_transformed(x)


def test_tracers() -> None:
    x, given = torch.ones(2), []

    def seen(y: Tensor) -> Tensor:
        given.append(private.is_traced())
        return y + 1

    make_fx(seen)(x)
    make_fx(seen, tracing_mode="fake")(x)
    torch.jit.trace(seen, x, check_trace=False)
    assert given == [True] * 3
    with FlopCounterMode(display=False):  # it watches and changes nothing
        assert not private.is_traced()
    assert not private.is_traced()


def test_tensors_without_memory() -> None:
    freed = torch.ones(2)
    freed.untyped_storage().resize_(0)
    assert private.has_no_memory(freed)
    assert private.has_no_memory(torch._efficientzerotensor(2))
    assert not private.has_no_memory(torch.ones(2))
    assert not private.has_no_memory(torch.ones(0))


def test_tangents() -> None:
    x = torch.ones(2)
    with forward_ad.dual_level():
        assert private.has_tangent(forward_ad.make_dual(x, x))
        assert not private.has_tangent(x)
    assert not private.has_tangent(x)


class Nested(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return x + 1, (x + 2, x + 3)


def test_outputs_are_put_together_again() -> None:
    program = torch.export.export(Nested(), (torch.rand(2),), strict=False)
    y, (h, c) = private.unflatten(["y", "h", "c"], program.call_spec.out_spec)
    assert (y, h, c) == ("y", "h", "c")


def test_operators_say_what_they_take() -> None:
    schema = private.schema_of(torch.ops.aten.add_.Tensor)
    assert schema.is_mutable
    assert [argument.name for argument in schema.arguments] == ["self", "other", "alpha"]
    assert private.schema_of(len) is None
