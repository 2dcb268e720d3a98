"""A model as a graph of operations, captured with torch.export."""

from billhook.inference.graph.capture import (
    indexing,
    maps,
    pointwise,
    products,
    sequences,
    shapes,
)
from billhook.inference.graph.capture.export import capture, capture_graph, capture_maps

__all__ = [
    "capture",
    "capture_graph",
    "capture_maps",
    "indexing",
    "maps",
    "pointwise",
    "products",
    "sequences",
    "shapes",
]
