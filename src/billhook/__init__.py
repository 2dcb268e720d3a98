"""billhook: prune PyTorch models while they train, store them small, run them fast on CPUs."""

import logging
from typing import TYPE_CHECKING, Any

from billhook.allocation import Global, LayerwiseConstant, Uniform
from billhook.criterion import Magnitude, Random
from billhook.errors import BillhookError
from billhook.footprint import expected_footprint, footprint
from billhook.format import inspect, load, save
from billhook.granularity import Unstructured
from billhook.plan import plan
from billhook.pruner import Pruner
from billhook.schedule import Cubic, OneShot, Polynomial

if TYPE_CHECKING:
    from billhook.inference import CompiledModel as CompiledModel
    from billhook.inference import compile as compile
    from billhook.inference import load_compiled as load_compiled

__version__ = "0.1.0"

__all__ = [
    "BillhookError",
    "Cubic",
    "Global",
    "LayerwiseConstant",
    "Magnitude",
    "OneShot",
    "Polynomial",
    "Pruner",
    "Random",
    "Uniform",
    "Unstructured",
    "expected_footprint",
    "footprint",
    "inspect",
    "load",
    "plan",
    "save",
]

# What a pruner selects is shown unless the application configures this logger otherwise, for
# example logging.getLogger("billhook").setLevel("WARNING").
_log = logging.getLogger(__name__)
if not _log.handlers:
    _log.addHandler(logging.StreamHandler())
    _log.setLevel(logging.INFO)
    _log.propagate = False

_LAZY = dict.fromkeys(("CompiledModel", "compile", "load_compiled"), "billhook.inference")


def __getattr__(name: str) -> Any:
    """Names whose modules are imported on first use, so that ``import billhook`` stays cheap."""
    if name not in _LAZY:
        raise AttributeError(f"module 'billhook' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
