"""billhook: prune PyTorch models while they train, store them small, run them fast on CPUs."""

from billhook.errors import BillhookError

__version__ = "0.1.0"

__all__ = ["BillhookError"]
