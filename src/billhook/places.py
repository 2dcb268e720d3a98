"""Where the pruned parameters stand in their modules, and how they are laid out."""

import operator
from collections.abc import Callable, Sequence

from torch import Tensor

from billhook import torch_private
from billhook.backends import native
from billhook.distributed import reader_of_parts
from billhook.selection import Weight

__all__ = ["Places"]


class Places:
    """Whether parameters are where they were, in a few calls for all of them.

    Args:
        weights: parameters and the modules that have them.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._parameters: list[Tensor] = [weight.parameter for weight in weights]
        self._parts = reader_of_parts(self._parameters)
        owners = [(weight.parameter, *owner) for weight in weights for owner in weight.owners]
        self._expected = [parameter for parameter, _, _ in owners]
        self._owned = [torch_private.parameters_of(module) for _, module, _ in owners]
        self._attributes = [attribute for _, _, attribute in owners]
        self._alike: Callable[[Sequence[Tensor | None]], bool] | None = None
        #: Whether some lie in main memory, as noted.
        self.in_main_memory = True

    def are_as_noted(self) -> bool:
        """Whether every parameter stands in its place, with the device, type and layout noted."""
        there = map(dict.get, self._owned, self._attributes)
        return (
            self._alike is not None
            and all(map(operator.is_, there, self._expected))
            and self._alike(self._parts(self._parameters))
        )

    def note(self) -> None:
        """Remember devices, types and layouts."""
        self.in_main_memory = any(native.in_main_memory(each) for each in self._parameters)
        self._alike = torch_private.alike(self._parts(self._parameters))
