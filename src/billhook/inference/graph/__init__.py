"""What a network computes: its operations, captured from a model, checked when read from a file."""

from billhook.inference.graph.attention import Attention, Matmul
from billhook.inference.graph.capture import capture, capture_graph, capture_maps
from billhook.inference.graph.constant import Constant
from billhook.inference.graph.conv import Conv
from billhook.inference.graph.elementwise import Binary, Elementwise
from billhook.inference.graph.linear import Linear
from billhook.inference.graph.maps import Activation, Add, Concat, Flatten, Mean, Other, Pool
from billhook.inference.graph.ops import INPUT, Layer, Op, UnsupportedError
from billhook.inference.graph.program import Graph, Input, Output
from billhook.inference.graph.rearrange import Join, Pad, Rearrange, Slice
from billhook.inference.graph.reduce import GroupNorm, LayerNorm, Reduce, Softmax
from billhook.inference.graph.resize import Resize
from billhook.inference.graph.sequence import Cast, Embed, Recurrent

__all__ = [
    "INPUT",
    "Activation",
    "Add",
    "Attention",
    "Binary",
    "Cast",
    "Concat",
    "Constant",
    "Conv",
    "Elementwise",
    "Embed",
    "Flatten",
    "Graph",
    "GroupNorm",
    "Input",
    "Join",
    "Layer",
    "LayerNorm",
    "Linear",
    "Matmul",
    "Mean",
    "Op",
    "Other",
    "Output",
    "Pad",
    "Pool",
    "Rearrange",
    "Recurrent",
    "Reduce",
    "Resize",
    "Slice",
    "Softmax",
    "UnsupportedError",
    "capture",
    "capture_graph",
    "capture_maps",
]
