"""A tensor in place of a packed weight: the ``weight`` of a replaced layer."""

from typing import Any, Protocol

import torch

from billhook import torch_private
from billhook.errors import ConfigurationError

__all__ = ["Packed", "StandIn"]


class Packed(Protocol):
    """A weight in the form that its kernels read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weight."""

    @property
    def nonzeros(self) -> int:
        """How many of its values are not zero."""

    def dense(self) -> torch.Tensor:
        """The dense weight in fp32."""


class StandIn(torch.Tensor):
    """Has the shape, type and device of a dense weight, and unpacks its values when they are read.

    Until then it takes no memory. It is read-only.

    >>> from billhook.inference.weights.csr import SparseWeight, to_csr
    >>> weight = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    >>> x = StandIn(SparseWeight((2, 2), to_csr(weight)))
    >>> x.dtype, x.shape, x.sum()
    (torch.float32, torch.Size([2, 2]), tensor(2.))
    """

    packed: Packed

    @staticmethod
    def __new__(cls, packed: Packed) -> "StandIn":
        made: StandIn = torch_private.wrapper(cls, packed.shape, torch.float32)
        made.packed = packed
        return made

    __torch_function__ = torch_private.no_torch_function

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if torch_private.schema_of(func).is_mutable and isinstance(next(iter(args), None), cls):
            raise ConfigurationError(
                "the weights of a compiled model are read-only: change the dense model and compile "
                "it again"
            )

        def values(x: Any) -> Any:
            return x.packed.dense() if isinstance(x, cls) else x

        args, kwargs = torch_private.map_leaves(values, (args, dict(kwargs or {})))
        return func(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"StandIn(shape={tuple(self.shape)}, nonzeros={self.packed.nonzeros})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "StandIn":
        return StandIn(self.packed)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return StandIn, (self.packed,)
