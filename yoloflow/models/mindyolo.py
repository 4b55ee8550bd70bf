"""The layers of variant "mindyolo": all deviations of the reference's networks from the originals."""

from __future__ import annotations

from torch import nn

from yoloflow.models.heads.anchor import YOLOv7AuxHead, YOLOv7Head
from yoloflow.models.heads.segment import YOLOv8SegHead
from yoloflow.models.heads.yolov8 import YOLOv8Head, YOLOv11Head
from yoloflow.models.layers.contract import Layer, Scaling
from yoloflow.models.layers.downsampling import ADown
from yoloflow.models.layers.pooling import SP, SPPCSPC, SPPELAN


class MindYOLOScaling(Scaling):
    """A scaling that leaves the channels inside of blocks as they are written."""

    def inner_channels(self, channels: int) -> int:
        """Returns the channels."""
        return channels


def zero_padded_max_pool(kernel: int, stride: int = 1) -> nn.Module:
    """Makes a max-pool padded with zeros, which win over negative activations at the border."""
    return nn.Sequential(nn.ZeroPad2d(kernel // 2), nn.MaxPool2d(kernel, stride))


class MindYOLOSP(SP):
    """An SP padded with zeros."""

    max_pool = staticmethod(zero_padded_max_pool)


class MindYOLOSPPCSPC(SPPCSPC):
    """An SPPCSPC padded with zeros."""

    max_pool = staticmethod(zero_padded_max_pool)


class MindYOLOSPPELAN(SPPELAN):
    """An SPPELAN padded with zeros."""

    max_pool = staticmethod(zero_padded_max_pool)


class MindYOLOADown(ADown):
    """An ADown padded with zeros."""

    max_pool = staticmethod(zero_padded_max_pool)


class MindYOLOv7Head(YOLOv7Head):
    """A YOLOv7 head whose factors start around 0."""

    factor_mean = 0.0


class MindYOLOv7AuxHead(YOLOv7AuxHead):
    """A YOLOv7 head with an auxiliary one; the factors start around 0."""

    factor_mean = 0.0


class MindYOLOv8Head(YOLOv8Head):
    """A YOLOv8 head whose class branches are as wide as the number of classes, as the older original's."""

    def _class_branch_width(self, first_channels: int) -> int:
        return max(first_channels, self.num_classes)


class MindYOLOv8SegHead(MindYOLOv8Head, YOLOv8SegHead):
    """A YOLOv8 head with masks whose class branches are as wide as the number of classes."""


class MindYOLOv11Head(MindYOLOv8Head, YOLOv11Head):
    """A YOLOv11 head whose class branches are as wide as the number of classes."""


MINDYOLO_LAYERS: dict[type[Layer], type[Layer]] = {
    ADown: MindYOLOADown,
    SP: MindYOLOSP,
    SPPCSPC: MindYOLOSPPCSPC,
    SPPELAN: MindYOLOSPPELAN,
    YOLOv7AuxHead: MindYOLOv7AuxHead,
    YOLOv7Head: MindYOLOv7Head,
    YOLOv8Head: MindYOLOv8Head,
    YOLOv8SegHead: MindYOLOv8SegHead,
    YOLOv11Head: MindYOLOv11Head,
}
"""Class of a layer table -> class that variant "mindyolo" builds instead."""
