"""billhook: prune PyTorch models while they train, store them small, run them fast on CPUs."""

from billhook.errors import BillhookError
from billhook.footprint import expected_footprint, footprint
from billhook.format import inspect, load, save

__version__ = "0.1.0"

__all__ = ["BillhookError", "expected_footprint", "footprint", "inspect", "load", "save"]
