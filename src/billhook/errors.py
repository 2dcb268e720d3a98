"""The exceptions billhook raises: each message names the cause, the offending value and the fix."""

__all__ = [
    "BillhookError",
    "CompileError",
    "ConfigurationError",
    "DataError",
    "ExportError",
    "FormatError",
    "MaskError",
    "StateError",
]


class BillhookError(Exception):
    """Base class: ``except billhook.BillhookError`` catches everything billhook raises itself."""


class ConfigurationError(BillhookError, ValueError):
    """An argument, rule or setting cannot be right; nothing has been changed yet."""


class DataError(BillhookError, ValueError):
    """Training data is missing, damaged, incomplete or does not fit: path and line are named."""


class MaskError(BillhookError, ValueError):
    """A mask cannot be computed or does not fit its weight (a NaN score, another shape)."""


class StateError(BillhookError, RuntimeError):
    """A pruner, its model and its optimizer no longer belong together, or a run ended too soon."""


class FormatError(BillhookError, ValueError):
    """A file is not a billhook file, or is damaged, hostile or of a version that is not read."""


class CompileError(BillhookError, RuntimeError):
    """A model cannot be compiled: the plan is another model's, or the outputs would differ."""


class ExportError(BillhookError, RuntimeError):
    """A model cannot be written in another format, or would compute something else there."""
