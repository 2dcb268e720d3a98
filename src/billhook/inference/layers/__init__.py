"""Layers replaced one by one: each kind of layer with a sparse form."""

from billhook.inference.layers.kinds import candidates, obstacle

__all__ = ["candidates", "obstacle"]
