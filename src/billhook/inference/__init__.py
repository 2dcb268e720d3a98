"""Inference: sparse models compiled to CPU kernels that skip the zeros."""

from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import compile
from billhook.inference.int8.ranges import Calibration
from billhook.inference.loading import load_compiled
from billhook.inference.plan import Choice, Plan
from billhook.inference.report import Accuracy, CompileReport, LayerReport

__all__ = [
    "Accuracy",
    "Calibration",
    "Choice",
    "CompileReport",
    "CompiledModel",
    "LayerReport",
    "Plan",
    "compile",
    "load_compiled",
]
