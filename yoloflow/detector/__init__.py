"""A trained network with all that is needed to use it on any image."""

from yoloflow.detector.detector import Detector
from yoloflow.detector.loading import Parts, find_parts, input_shape, load_network
from yoloflow.detector.result import Detection, Result, counted
from yoloflow.detector.settings import DetectSettings

__all__ = [
    "DetectSettings",
    "Detection",
    "Detector",
    "Parts",
    "Result",
    "counted",
    "find_parts",
    "input_shape",
    "load_network",
]
