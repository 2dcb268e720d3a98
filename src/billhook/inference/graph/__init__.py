"""What a network computes: its operations, captured from a model, checked when read from a file."""

from billhook.inference.graph.capture import capture
from billhook.inference.graph.conv import Conv
from billhook.inference.graph.elementwise import Elementwise, Multiply
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Activation, Add, Concat, Flatten, Mean, Other, Pool
from billhook.inference.graph.ops import INPUT, Layer, Op, UnsupportedError

__all__ = [
    "INPUT",
    "Activation",
    "Add",
    "Concat",
    "Conv",
    "Elementwise",
    "Flatten",
    "Layer",
    "Linear",
    "Mean",
    "Multiply",
    "Op",
    "Other",
    "Pool",
    "UnsupportedError",
    "capture",
]
