"""billhook: prune PyTorch models while they train, store them small, run them fast on CPUs.

Every public name is imported when it is first used, so that ``import billhook`` takes no time and
the command line answers ``--help`` without loading torch.
"""

import importlib
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from billhook.allocation import ErdosRenyi, LayerwiseConstant, Uniform
    from billhook.criterion import Magnitude, Random
    from billhook.distillation import Teacher, distillation_loss
    from billhook.errors import BillhookError
    from billhook.falling import Alternating, Cyclic
    from billhook.footprint import expected_footprint, footprint
    from billhook.format import inspect, load, save
    from billhook.global_ranking import LAMP, Global
    from billhook.granularity import NM, Block, PerRow, Rows, Unstructured
    from billhook.inference import Calibration, CompiledModel, compile, load_compiled
    from billhook.oneshot import prune
    from billhook.plan import plan
    from billhook.pruner import Pruner
    from billhook.recalibration import recalibrate
    from billhook.regrowth import GradientRegrowth
    from billhook.saliency import FirstOrder, Fisher, Movement, Wanda
    from billhook.scan import sensitivity
    from billhook.schedule import Cubic, Hold, OneShot, Polynomial

__version__ = "0.2.0"

__all__ = [
    "LAMP",
    "NM",
    "Alternating",
    "BillhookError",
    "Block",
    "Calibration",
    "CompiledModel",
    "Cubic",
    "Cyclic",
    "ErdosRenyi",
    "FirstOrder",
    "Fisher",
    "Global",
    "GradientRegrowth",
    "Hold",
    "LayerwiseConstant",
    "Magnitude",
    "Movement",
    "OneShot",
    "PerRow",
    "Polynomial",
    "Pruner",
    "Random",
    "Rows",
    "Teacher",
    "Uniform",
    "Unstructured",
    "Wanda",
    "compile",
    "distillation_loss",
    "expected_footprint",
    "footprint",
    "inspect",
    "load",
    "load_compiled",
    "plan",
    "prune",
    "recalibrate",
    "save",
    "sensitivity",
]

# Everything is logged here; what is shown, and where, is the application's choice.
_log = logging.getLogger(__name__)

#: The module that each public name comes from.
_HOMES = {
    "allocation": ("ErdosRenyi", "LayerwiseConstant", "Uniform"),
    "criterion": ("Magnitude", "Random"),
    "distillation": ("Teacher", "distillation_loss"),
    "errors": ("BillhookError",),
    "falling": ("Alternating", "Cyclic"),
    "footprint": ("expected_footprint", "footprint"),
    "format": ("inspect", "load", "save"),
    "global_ranking": ("LAMP", "Global"),
    "granularity": ("NM", "Block", "PerRow", "Rows", "Unstructured"),
    "inference": ("Calibration", "CompiledModel", "compile", "load_compiled"),
    "oneshot": ("prune",),
    "plan": ("plan",),
    "pruner": ("Pruner",),
    "recalibration": ("recalibrate",),
    "regrowth": ("GradientRegrowth",),
    "saliency": ("Fisher", "FirstOrder", "Movement", "Wanda"),
    "scan": ("sensitivity",),
    "schedule": ("Cubic", "Hold", "OneShot", "Polynomial"),
}
_HOME = {name: f"billhook.{home}" for home, names in _HOMES.items() for name in names}


class _Package(types.ModuleType):
    """This package: a public name stays what it is when a module of the same name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python binds a submodule in its package once it is imported: `billhook.plan` and
        # `billhook.footprint` are functions all the same.
        if name in _HOME and isinstance(value, types.ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """A public name, or a module of this package, imported now."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
