"""A trained network with all that is needed to use it on any image."""

from yoloflow.detector.detector import Detector, DetectSettings
from yoloflow.detector.loading import (
    class_names,
    home_of,
    input_shape,
    load_network,
    load_settings,
    weights_of,
)
from yoloflow.detector.result import Detection, Result, counted

__all__ = [
    "DetectSettings",
    "Detection",
    "Detector",
    "Result",
    "class_names",
    "counted",
    "home_of",
    "input_shape",
    "load_network",
    "load_settings",
    "weights_of",
]
