"""The layers that a table may name: a new one is a class and a line here (a head: in `families.py`)."""

from __future__ import annotations

from yoloflow.families import load_part, part_names
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
    "nn.MaxPool2d": MaxPool,
}


def layer_names() -> list[str]:
    """Returns the names of all layers and heads."""
    return [*LAYERS, *part_names("Head")]


def find_layer(name: str) -> type[Layer]:
    """Returns the class of one of `layer_names()`."""
    return LAYERS[name] if name in LAYERS else load_part("Head", name)
