"""The paper's four model families. Every model states what the paper prunes as ``prune_rules``.

``prune_rules`` is what :class:`billhook.Pruner` takes as ``rules``: a name or a glob of names to a
sparsity, or to None for a layer that stays dense. Whatever no rule names follows the pruner's
default, which is every weight matrix.
"""

from billhook.models.gnmt import GNMT, gnmt
from billhook.models.inception_v3 import InceptionV3, from_torchvision, inception_v3
from billhook.models.lstm import OneBiasLSTM
from billhook.models.mobilenet_v1 import MobileNetV1, mobilenet_v1
from billhook.models.ptb_lstm import PTBLSTM, ptb_lstm

__all__ = [
    "GNMT",
    "PTBLSTM",
    "InceptionV3",
    "MobileNetV1",
    "OneBiasLSTM",
    "from_torchvision",
    "gnmt",
    "inception_v3",
    "mobilenet_v1",
    "ptb_lstm",
]
