"""ONNX files in and out; needs the extra ``onnx``."""

from billhook.onnx.export import export_onnx
from billhook.onnx.model import OnnxModel, load_onnx

__all__ = ["OnnxModel", "export_onnx", "load_onnx"]
