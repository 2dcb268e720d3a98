"""One pruned tensor: its mask, and while masks still change the values it keeps aside."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from billhook.errors import StateError
from billhook.mask import Mask
from billhook.optimizer_state import hold_state
from billhook.schedule import Schedule
from billhook.selection import Weight

__all__ = ["MaskedWeight"]


class MaskedWeight:
    """A parameter that holds zeros in place, and the raw values that stood there.

    ``raw = where(mask, parameter, aside)``: the parameter itself is what the model sees, so
    nothing in the model is renamed, wrapped or hooked. The values aside are packed: one for every
    masked weight, in row-major order, in the parameter's dtype.
    """

    def __init__(self, weight: Weight, schedule: Schedule, optimizer: Optimizer | None) -> None:
        self.weight = weight
        self.schedule = schedule
        self.optimizer = optimizer
        self.mask = Mask(torch.ones_like(self.parameter, dtype=torch.bool))
        self.aside: Tensor | None = None
        self._version = self.parameter._version
        self._hook = self._register_hook()

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.weight.name

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The parameter the model sees."""
        return self.weight.parameter

    def raw(self) -> Tensor:
        """The weight with the values kept aside back in their places, as a new tensor."""
        raw = self.parameter.detach().clone(memory_format=torch.contiguous_format)
        if self.aside is not None:
            raw[~self._mask_here().keep()] = self.aside
        return raw

    def set_mask(self, keep: Tensor, *, keep_aside: bool) -> None:
        """Put ``keep`` in force: values come back where it is True, go aside where it is not."""
        raw = self.raw()
        self.mask = Mask(keep)
        self.aside = raw[~keep] if keep_aside else None
        with torch.no_grad():
            self.parameter.copy_(raw)
        self._put_in_force()

    def restore(self, mask: Mask, aside: Tensor | None) -> None:
        """Replace mask and values aside by those of a checkpoint."""
        if self.aside is not None and not self._written_from_outside():
            with torch.no_grad():
                self.parameter.copy_(self.raw())
        device = self.parameter.device
        self.mask = mask
        self.aside = None if aside is None else aside.to(device, copy=True)
        self._put_in_force()

    def hold(self) -> None:
        """Zeros in the weight and its optimizer state wherever it is masked, after a step."""
        mask = self._mask_here()
        mask.zero_(self.parameter)
        if self.optimizer is not None:
            hold_state(self.optimizer, self.parameter, mask, self.name)
        self._version = self.parameter._version

    def check(self) -> None:
        """See that this is still the model's parameter and that nobody wrote at masked places.

        Raises:
            StateError: another Parameter stands in its place, or a load brought in weights that
                are not zero where the mask is.
        """
        for module, attribute in self.weight.owners:
            if module._parameters.get(attribute) is not self.parameter:
                raise StateError(
                    f"{self.name!r} is no longer the parameter this pruner was attached to "
                    f"(attribute {attribute!r} of {type(module).__name__} was replaced): copy "
                    "values into the old one with copy_(), or detach() and attach a new Pruner"
                )
        if not self._written_from_outside():
            return
        strays = int((self.parameter.detach()[~self._mask_here().keep()] != 0).sum())
        if strays:
            raise StateError(
                f"{strays} weights of {self.name!r} were written where the mask holds zeros: load "
                "the pruner state that belongs to these weights too, or load them before the "
                "Pruner is made, or call pruner.apply_to(model)"
            )
        self._version = self.parameter._version

    def release(self) -> None:
        """Remove the gradient hook and forget the values aside; the zeros stay."""
        self._hook.remove()
        self.aside = None

    def _put_in_force(self) -> None:
        """Hold a new mask, in the gradient of the last backward pass too."""
        if self.parameter.grad is not None:
            self._mask_grad(self.parameter)
        self.hold()

    def _written_from_outside(self) -> bool:
        """Whether the weight changed since :meth:`hold`, outside of an optimizer step."""
        return self.parameter._version != self._version

    def _mask_here(self) -> Mask:
        """The mask, moved to where the parameter now lives."""
        device = self.parameter.device
        if self.mask.bits.device != device:
            self.mask.to(device)
            self.aside = None if self.aside is None else self.aside.to(device)
        return self.mask

    def _register_hook(self) -> torch.utils.hooks.RemovableHandle:
        frozen = not self.parameter.requires_grad  # torch takes the hook only from a leaf in use
        self.parameter.requires_grad_(True)
        handle: torch.utils.hooks.RemovableHandle = (
            self.parameter.register_post_accumulate_grad_hook(self._mask_grad)
        )
        self.parameter.requires_grad_(not frozen)
        return handle

    def _mask_grad(self, parameter: Tensor) -> None:
        grad = parameter.grad
        assert grad is not None
        if grad.is_sparse:  # rows of an embedding, possibly repeated
            rows = self._mask_here().keep()[grad._indices()[0]]
            grad._values().masked_fill_(~rows, 0.0)
        else:
            self._mask_here().zero_(grad)
