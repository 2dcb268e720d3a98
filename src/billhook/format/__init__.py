"""Files that are really smaller: a safetensors container with coded tensors (see SPEC.md)."""

from billhook.format.reader import Inspection, Reader, inspect, load
from billhook.format.save_report import SaveReport
from billhook.format.writer import save

__all__ = ["Inspection", "Reader", "SaveReport", "inspect", "load", "save"]
