"""nn.LSTM with one bias per gate, as the paper's models and TensorFlow's cells have it."""

import torch
from torch import nn

from billhook import torch_private

__all__ = ["OneBiasLSTM"]


class OneBiasLSTM(nn.LSTM):
    """``nn.LSTM`` whose second bias, ``bias_hh_*``, is a constant zero and no parameter.

    torch adds ``bias_ih`` and ``bias_hh``; their sum is all that counts. Here ``bias_hh_*`` is a
    buffer of zeros outside the state_dict, so the fused kernels run as ever, and a layer has
    ``4 * hidden * (input + hidden + 1)`` parameters. Arguments, inputs and outputs are nn.LSTM's.

    >>> import torch
    >>> lstm = OneBiasLSTM(3, 5, batch_first=True)
    >>> sum(p.numel() for p in lstm.parameters()) == 4 * 5 * (3 + 5 + 1)
    True
    >>> list(lstm.state_dict())
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0']
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        for name in self._second_biases():
            zeros = torch.zeros_like(getattr(self, name)).detach()
            delattr(self, name)
            self.register_buffer(name, zeros, persistent=False)
        torch_private.gather_flat_weights(self)  # the list the fused kernels read

    def _second_biases(self) -> list[str]:
        names = torch_private.flat_weights_names(self)
        return [name for name in names if name.startswith("bias_hh")]

    def reset_parameters(self) -> None:
        """nn.LSTM's own, and zero again for the second bias (after ``to_empty``)."""
        super().reset_parameters()
        for name in self._second_biases():
            if name in torch_private.buffers_of(self):
                nn.init.zeros_(getattr(self, name))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, one bias per gate"
