"""What billhook uses of torch that begins with an underscore, all of it.

Such a name may go with any release of torch. Each has a test of its own in
``tests/test_torch_private.py``, so that a release that takes one away breaks this file and says
which; ``tests/test_architecture.py`` keeps the names out of the other files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree

__all__ = [
    "BatchNorm",
    "ConvNd",
    "ConvTransposeNd",
    "Norm",
    "alike",
    "buffers_of",
    "call_after_backward",
    "children_of",
    "flat_weights_names",
    "forward_hooks",
    "forward_pre_hooks",
    "gather_flat_weights",
    "gradient_hooks",
    "has_no_memory",
    "has_one_width",
    "has_tangent",
    "in_backward",
    "is_traced",
    "is_transformed",
    "leaves",
    "map_leaves",
    "no_torch_function",
    "padding_by_side",
    "parameters_of",
    "schema_of",
    "sparse_parts",
    "unflatten",
    "version",
    "versions",
    "wrapper",
]

#: The bases of the convolutions, the transposed ones, batch normalisation, and that and instance
#: normalisation, of all dimensions.
ConvNd = nn.modules.conv._ConvNd
ConvTransposeNd = nn.modules.conv._ConvTransposeNd
BatchNorm = nn.modules.batchnorm._BatchNorm
Norm = nn.modules.batchnorm._NormBase

#: ``__torch_function__`` of a tensor subclass that only ``__torch_dispatch__`` handles.
no_torch_function: Any = torch._C._disabled_torch_function_impl


def version(tensor: Tensor) -> int:
    """How often a tensor's elements were written to in place; its views share the count."""
    return tensor._version


def versions(tensors: Iterable[Tensor | None]) -> list[int]:
    """The versions of many tensors; -1 where there is none."""
    return [-1 if each is None else each._version for each in tensors]


def alike(tensors: Iterable[Tensor | None]) -> Callable[[Sequence[Tensor | None]], bool]:
    """A function that says of as many others whether each has the class, dtype, device, shape and
    strides of the one at its place: one call for all of them."""
    guards = torch._C._dynamo.guards.TensorGuards(
        *tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
    )
    return lambda others: guards.check(*others)


def sparse_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and values of a sparse tensor, coalesced or not; a write to them changes it."""
    return tensor._indices(), tensor._values()


def leaves(tree: Any) -> list[Any]:
    """Everything in nested tuples, lists, mappings and other registered containers."""
    if type(tree) is tuple and all(isinstance(x, Tensor) for x in tree):
        return list(tree)  # what most calls are given; the tree's walk takes longer
    return _pytree.tree_leaves(tree)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same containers with ``function`` of everything in them."""
    return _pytree.tree_map(function, tree)


def unflatten(parts: Iterable[Any], spec: Any) -> Any:
    """What :func:`leaves` took apart, of other parts; ``spec`` as torch.export has it."""
    return _pytree.tree_unflatten(parts, spec)


def schema_of(operator: Any) -> Any:
    """The arguments and results of an operator of torch; None of anything else."""
    return getattr(operator, "_schema", None)


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters by attribute; None where it could have one and has not."""
    return module._parameters


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers by attribute; a change of the dict changes the module."""
    return module._buffers


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own modules by attribute, the same one more than once if it has it so."""
    return module._modules


def forward_hooks(module: nn.Module) -> Iterable[Callable[..., Any]]:
    """The hooks that run after a module's forward."""
    return module._forward_hooks.values()


def remove_forward_hooks(module: nn.Module, which: Callable[[Any], bool]) -> None:
    """Takes away those hooks that run after a module's forward and that ``which`` names."""
    for key, hook in list(module._forward_hooks.items()):
        if which(hook):
            del module._forward_hooks[key]


def forward_pre_hooks(module: nn.Module) -> Iterable[Callable[..., Any]]:
    """The hooks that run before it."""
    return module._forward_pre_hooks.values()


def gradient_hooks(parameter: Tensor) -> Iterable[Callable[..., Any]]:
    """The hooks that run when a parameter's gradient was accumulated."""
    hooks: Mapping[int, Callable[..., Any]] | None = parameter._post_accumulate_grad_hooks
    return (hooks or {}).values()


def flat_weights_names(rnn: nn.RNNBase) -> list[str]:
    """The attributes of a recurrent layer's weights and biases, in torch's order."""
    return list(rnn._flat_weights_names)


def gather_flat_weights(rnn: nn.RNNBase) -> None:
    """Take the attributes again as what the fused kernels read, after one was replaced."""
    rnn._init_flat_weights()


def has_one_width(attention: nn.MultiheadAttention) -> bool:
    """Whether keys and values have the width of the queries, and so one weight for all three."""
    return bool(attention._qkv_same_embed_dim)


def padding_by_side(conv: nn.Module) -> list[int]:
    """A convolution's padding as ``F.pad`` takes it, the last dimension first; "same" as well."""
    return list(conv._reversed_padding_repeated_twice)  # type: ignore[arg-type]


def in_backward() -> bool:
    """Whether this thread is in a backward pass."""
    return torch._C._current_graph_task_id() != -1


def call_after_backward(callback: Callable[[], None]) -> None:
    """Call back at the end of the backward pass that this thread is in."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def wrapper(cls: type[Tensor], shape: Iterable[int], dtype: torch.dtype) -> Any:
    """A tensor on the CPU of a subclass that has this shape and type, and no memory."""
    size = tuple(shape)
    return Tensor._make_wrapper_subclass(cls, size, dtype=dtype, device=torch.device("cpu"))


def is_transformed(x: Tensor) -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp, functionalize) has wrapped it."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    return bool(wrapped or torch._is_functional_tensor(x))


def is_traced() -> bool:
    """Whether torch's operations are recorded, or make tensors that have no memory."""
    modes = torch._C._TorchDispatchModeKey
    if torch._C._get_tracing_state() is not None:
        return True
    return any(torch._C._get_dispatch_mode(mode) for mode in (modes.PROXY, modes.FAKE))


def has_no_memory(x: Tensor) -> bool:
    """Whether there is nothing to read where the elements should be."""
    return bool(x._is_zerotensor() or (x.numel() and not x.data_ptr()))


def has_tangent(x: Tensor) -> bool:
    """Whether forward-mode differentiation follows it."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None
