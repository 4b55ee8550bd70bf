"""The layers that a table may name. A new layer is a class and a line here."""

from __future__ import annotations

from yoloflow.models.heads.anchor import AnchorHead, YOLOv7AuxHead, YOLOv7Head
from yoloflow.models.heads.yolov4 import YOLOv4Head
from yoloflow.models.heads.yolov8 import YOLOv8Head, YOLOv9Head, YOLOv10Head, YOLOv11Head
from yoloflow.models.heads.yolox import YOLOXHead
from yoloflow.models.layers.attention import C2PSA, PSA
from yoloflow.models.layers.contract import Layer
from yoloflow.models.layers.convolution import Bottleneck, ConvNormAct, DepthwiseSeparable, Residualblock
from yoloflow.models.layers.csp import C2, C3, DWC3, C2f, C2fCIB, C3k2
from yoloflow.models.layers.downsampling import AConv, ADown, DownC, Focus, ReOrg, SCDown
from yoloflow.models.layers.elan import ELAN1, RepNCSPELAN4
from yoloflow.models.layers.pooling import MP, SP, SPPCSPC, SPPELAN, SPPF, MaxPool
from yoloflow.models.layers.reparameterized import RepConv
from yoloflow.models.layers.routing import CBFuse, CBLinear, Concat, Identity, Shortcut, Upsample

LAYERS: dict[str, type[Layer]] = {
    "AConv": AConv,
    "ADown": ADown,
    "Bottleneck": Bottleneck,
    "C2": C2,
    "C2PSA": C2PSA,
    "C2f": C2f,
    "C2fCIB": C2fCIB,
    "C3": C3,
    "C3k2": C3k2,
    "CBFuse": CBFuse,
    "CBLinear": CBLinear,
    "Concat": Concat,
    "ConvNormAct": ConvNormAct,
    "DWC3": DWC3,
    "DWConvNormAct": DepthwiseSeparable,
    "DownC": DownC,
    "ELAN1": ELAN1,
    "Focus": Focus,
    "Identity": Identity,
    "MP": MP,
    "PSA": PSA,
    "ReOrg": ReOrg,
    "RepConv": RepConv,
    "RepNCSPELAN4": RepNCSPELAN4,
    "Residualblock": Residualblock,
    "SCDown": SCDown,
    "SP": SP,
    "SPPCSPC": SPPCSPC,
    "SPPELAN": SPPELAN,
    "SPPF": SPPF,
    "Shortcut": Shortcut,
    "Upsample": Upsample,
    "YOLOXHead": YOLOXHead,
    "YOLOv10Head": YOLOv10Head,
    "YOLOv11Head": YOLOv11Head,
    "YOLOv3Head": AnchorHead,
    "YOLOv4Head": YOLOv4Head,
    "YOLOv5Head": AnchorHead,
    "YOLOv7AuxHead": YOLOv7AuxHead,
    "YOLOv7Head": YOLOv7Head,
    "YOLOv8Head": YOLOv8Head,
    "YOLOv9Head": YOLOv9Head,
    "nn.MaxPool2d": MaxPool,
}
