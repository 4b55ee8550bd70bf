"""Diagnostics of detections: curves, confusion, kinds of errors, calibration, intervals.

Imports no torch.
"""

from yoloflow.evaluation.diagnostics.comparison import Comparison, compare
from yoloflow.evaluation.diagnostics.diagnosis import Diagnostics, diagnose

__all__ = ["Comparison", "Diagnostics", "compare", "diagnose"]
