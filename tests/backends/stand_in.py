"""A stand-in for an accelerator on a machine without one.

Its tensors say that they live on another device and compute in main memory; they refuse to meet
tensors of the CPU, and every operation is counted: kernels, bytes moved, synchronisations.

    with Accelerator() as device:
        model = device.module(nn.Linear(8, 8))
        device.reset(); step(); device.kernels, device.synchronisations

The device's name is "meta": a build without CUDA runs its autograd engine there. Kernels are
counted from what PyTorch's CUDA sources launch: one for each operation, but four for ``nonzero``,
five for an index by bools, two for padding and one for every 48 tensors of a ``foreach`` or fused
operation.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from billhook.backends import nans, portable
from billhook.backends import triton as triton_backend

DEVICE = torch.device("meta")

#: Operations that launch nothing, whether they make a view or an empty tensor.
_FREE = {
    *("detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"),
    *("new_empty_strided", "set_", "resize_", "_unsafe_view", "is_same_size"),
}
_WRITES_ONLY = {"copy_", "fill_", "zero_", "uniform_", "normal_"}
_INDEXING = {"index", "index_put_", "index_put", "_unsafe_index_put", "_index_put_impl_"}
_READ_BACK = {"_local_scalar_dense", "equal", "is_nonzero"}


class OnDevice(Tensor):
    """A tensor of the stand-in device; ``here`` is the CPU's tensor that it really is."""

    here: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        made.here = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.here})"

    is_meta = False  # it has values

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        device = Accelerator.current
        assert device is not None, f"{func} outside of Accelerator()"
        return device.run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class DoneEvent:
    """What ``record_event`` gives: the stand-in is never behind."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    values.is_page_locked = True  # type: ignore[attr-defined]
    return values


class Accelerator(TorchDispatchMode):
    """The device, while entered; its counts since :meth:`reset`."""

    current: ClassVar["Accelerator | None"] = None

    def __init__(self, *, kernels: bool = False, runs: bool = True) -> None:
        """``kernels``: has those of Triton; ``runs``: they do something when launched."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.has_kernels, self._runs = kernels, runs
        self.reset()

    def reset(self) -> None:
        self.kernels = self.bytes = 0
        self.launches: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def __enter__(self) -> Self:
        Accelerator.current = self
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(nans, "record_event", lambda device: DoneEvent())
        self._patch.setattr(portable, "pinned", _pinned)
        if self.has_kernels:
            self._add_kernels()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def _add_kernels(self) -> None:
        def launch(
            batch: triton_backend.Batch, kernel: Any, programs: int, *args: Tensor, **constants: Any
        ) -> None:
            assert all(isinstance(each, OnDevice) for each in args)
            self.launches[kernel.__name__] += 1
            if self._runs:
                kernel[(programs,)](*map(_inner, args), **constants)

        def refuse(device: torch.device, reason: object) -> None:
            raise AssertionError("a kernel failed") from (
                reason if isinstance(reason, Exception) else None
            )

        self._patch.setattr(triton_backend, "log_failure", refuse)
        self._patch.setattr(triton_backend, "is_available", lambda device: device == DEVICE)
        self._patch.setattr(triton_backend, "_PLAIN", (Tensor, nn.Parameter, OnDevice))
        self._patch.setattr(triton_backend.Batch, "_launch", launch)

    def __exit__(self, *error: Any) -> None:
        Accelerator.current = None
        self._patch.undo()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def tensor(self, tensor: Tensor) -> OnDevice:
        """A copy of ``tensor`` on the device."""
        return OnDevice(tensor.detach().clone())

    def module(self, module: nn.Module) -> nn.Module:
        """``module`` itself, its parameters and buffers replaced by copies on the device."""
        for each in module.modules():
            for name, parameter in list(each._parameters.items()):
                if parameter is not None:
                    there = self.tensor(parameter)
                    each._parameters[name] = nn.Parameter(there, parameter.requires_grad)
            for name, buffer in list(each._buffers.items()):
                if buffer is not None:
                    each._buffers[name] = self.tensor(buffer)
        return module

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        flat = _pytree.tree_leaves((args, kwargs))
        here = [each for each in flat if isinstance(each, OnDevice)]
        to_device = _is(kwargs.get("device"), DEVICE.type)
        to_host = _is(kwargs.get("device"), "cpu")
        if not here and not to_device:
            return func(*args, **kwargs)
        self._refuse_mixture(name, flat, here)
        inner_args, inner_kwargs = _pytree.tree_map(_inner, (args, kwargs))
        if to_device:
            inner_kwargs["device"] = torch.device("cpu")
        out = func(*inner_args, **inner_kwargs)
        self._count(func, args, kwargs, here, out)
        if name in _READ_BACK or to_host or (name == "copy_" and not isinstance(args[0], OnDevice)):
            return out
        if func._schema.is_mutable and isinstance(out, Tensor) and name.endswith("_"):
            return args[0]
        mutated = {id(each.here): each for each in here}

        def there(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return mutated[id(value)] if id(value) in mutated else OnDevice(value)

        return _pytree.tree_map(there, out)

    def _refuse_mixture(self, name: str, flat: list[Any], here: Sequence[OnDevice]) -> None:
        if not here or name == "copy_" or name in _INDEXING or name == "_to_copy":
            return
        for each in flat:
            if isinstance(each, Tensor) and not isinstance(each, OnDevice):
                assert each.dim() == 0, f"{name}: a tensor of the CPU meets one of the device"

    def _count(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        here: Sequence[OnDevice],
        out: Any,
    ) -> None:
        name, schema = func.overloadpacket.__name__, func._schema
        self.operations[name] += 1
        to_host = name == "_to_copy" and _is(kwargs.get("device"), "cpu")
        if (name == "_to_copy" and to_host) or (
            name == "copy_" and not isinstance(args[0], OnDevice)
        ):
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
            if not asynchronous:
                self.synchronisations["copy to the host"] += 1
        elif (name == "_to_copy" and not here) or (
            name == "copy_" and not isinstance(args[1], OnDevice)
        ):
            page_locked = name == "copy_" and hasattr(args[1], "is_page_locked")
            if not (page_locked and args[2:3] == (True,)):
                self.synchronisations["copy from pageable memory"] += 1
        elif name in _READ_BACK:
            self.synchronisations["item"] += 1
        elif name in _FREE or _is_view(schema):
            pass
        else:
            kernels, moved = _cost(name, schema, args, here, out)
            if name in ("nonzero", "bincount", "masked_select") or _bools(name, args):
                self.synchronisations[name] += 1
            self.kernels += kernels
            self.bytes += moved


def _is(device: Any, kind: str) -> bool:
    return device is not None and torch.device(device).type == kind


def _inner(value: Any) -> Any:
    return value.here if isinstance(value, OnDevice) else value


def _is_view(schema: Any) -> bool:
    return not schema.is_mutable and any(each.alias_info is not None for each in schema.returns)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bools(name: str, args: Any) -> list[Tensor]:
    if name not in _INDEXING:
        return []
    return [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]


def _cost(name: str, schema: Any, args: Any, here: Sequence[OnDevice], out: Any) -> tuple[int, int]:
    """Kernels launched, and bytes that must be read and written."""
    results = [each for each in _pytree.tree_leaves(out) if isinstance(each, Tensor)]
    moved = sum(_size(each.here) for each in here) + sum(_size(each) for each in results)
    if name in _WRITES_ONLY:
        moved -= _size(args[0].here)
    if schema.is_mutable and name.startswith(("_foreach", "_fused")):
        writes = [
            i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write
        ]
        moved += sum(_size(t.here) for i in writes if i < len(args) for t in args[i])
        return max(1, -(-len(args[0]) // 48)), moved
    return {"nonzero": 4, "constant_pad_nd": 2}.get(name, 5 if _bools(name, args) else 1), moved
