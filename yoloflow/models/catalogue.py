"""The layers that a table may name. A new layer is a class and a line here."""

from __future__ import annotations

from yoloflow.models.heads.yolov8 import YOLOv8Head
from yoloflow.models.layers.contract import Layer
from yoloflow.models.layers.convolution import Bottleneck, ConvNormAct
from yoloflow.models.layers.csp import C2f
from yoloflow.models.layers.pooling import SPPF
from yoloflow.models.layers.routing import Concat, Upsample

LAYERS: dict[str, type[Layer]] = {
    "Bottleneck": Bottleneck,
    "C2f": C2f,
    "Concat": Concat,
    "ConvNormAct": ConvNormAct,
    "SPPF": SPPF,
    "Upsample": Upsample,
    "YOLOv8Head": YOLOv8Head,
}
