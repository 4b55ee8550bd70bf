"""Compact inverted blocks: depthwise convolutions in space, 1x1 convolutions over channels (YOLOv10)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.reparameterized import RepVGGDW


class InvertedBlock(nn.Module):
    """Depthwise 3x3, 1x1 to twice the channels, depthwise, 1x1 back, depthwise 3x3 (figure 3b).

    Args:
        channels: C, taken and given.
        shortcut: whether to add the input.
        large_kernel: make the middle convolution a `RepVGGDW` of 7x7.
    """

    mindyolo_names: ClassVar[dict[str, str]] = {"chain": "cv1"}

    def __init__(self, channels: int, *, shortcut: bool = True, large_kernel: bool = False) -> None:
        super().__init__()
        wide = 2 * channels
        self.chain = nn.Sequential(
            ConvNormAct(channels, channels, 3, groups=channels),
            ConvNormAct(channels, wide),
            RepVGGDW(wide) if large_kernel else ConvNormAct(wide, wide, 3, groups=wide),
            ConvNormAct(wide, channels),
            ConvNormAct(channels, channels, 3, groups=channels),
        )
        self.adds = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        result: Tensor = self.chain(features)
        return features + result if self.adds else result
