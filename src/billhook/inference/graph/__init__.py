"""What a network computes: its operations, captured from a model, checked when read from a file."""

from billhook.inference.graph.capture import capture
from billhook.inference.graph.ops import INPUT, Conv, Linear, Op, Other, Pool, UnsupportedError

__all__ = ["INPUT", "Conv", "Linear", "Op", "Other", "Pool", "UnsupportedError", "capture"]
