"""Trained weights to an ONNX file that says how to use it."""

from yoloflow.export.flow import ExportSettings, ExportSummary, export
from yoloflow.models.exported import InnerNms

__all__ = ["ExportSettings", "ExportSummary", "InnerNms", "export"]
