"""Inference: sparse models compiled to CPU kernels that skip the zeros."""

from billhook.inference.compiled import CompiledModel
from billhook.inference.compiler import compile
from billhook.inference.loading import load_compiled
from billhook.inference.plan import Choice, Plan
from billhook.inference.report import LayerReport, Report

__all__ = ["Choice", "CompiledModel", "LayerReport", "Plan", "Report", "compile", "load_compiled"]
