"""billhook: prune PyTorch models while they train, store them small, run them fast on CPUs."""

import logging

from billhook.allocation import Global, LayerwiseConstant, Uniform
from billhook.criterion import Magnitude, Random
from billhook.errors import BillhookError
from billhook.footprint import expected_footprint, footprint
from billhook.format import inspect, load, save
from billhook.granularity import Unstructured
from billhook.plan import plan
from billhook.pruner import Pruner
from billhook.schedule import Cubic, OneShot, Polynomial

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
