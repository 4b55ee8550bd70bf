"""Layers that halve a map in other ways than one convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow, MapShape
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.pooling import padded_max_pool


def space_to_channels(features: Tensor) -> Tensor:
    """Maps (B, C, H, W) to (B, 4 C, H / 2, W / 2): the four cells of a square, column by column."""
    corners = [features[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return torch.cat(corners, 1)


class ReOrg(Layer):
    """Squares of four cells become channels (YOLOv7's large sizes)."""

    @classmethod
    def from_row(cls, row: LayerRow) -> ReOrg:
        """Takes no row arguments."""
        return cls()

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns four times the channels and twice the stride."""
        return MapShape(4 * inputs[0].channels, 2 * inputs[0].stride)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, 4 C, H / 2, W / 2)."""
        return space_to_channels(features)


class Focus(Layer):
    """Squares of four cells become channels, then a convolution (YOLOv5 before v6, YOLOX)."""

    step = 2

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv = ConvNormAct(4 * in_channels, out_channels, kernel)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, kernel: int = 1) -> Focus:
        """Takes the row arguments channels (scaled), kernel."""
        return cls(row.in_channels, row.scaling.channels(channels), kernel)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H / 2, W / 2)."""
        return self.conv(space_to_channels(features))


class HalvingLayer(Layer):
    """A layer that halves a map and is made from the channels it takes and gives."""

    step = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    @classmethod
    def from_row(cls, row: LayerRow, channels: int) -> Self:
        """Takes the row arguments channels (scaled)."""
        return cls(row.in_channels, row.scaling.channels(channels))


class DownC(HalvingLayer):
    """Half of the channels from a convolution of stride 2, half from a max-pool (YOLOv7's large sizes)."""

    mindyolo_names = {"reduce": "cv1", "conv": "cv2", "pooled": "cv3"}

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.reduce = ConvNormAct(in_channels, in_channels)
        self.conv = ConvNormAct(in_channels, out_channels // 2, 3, 2)
        self.pooled = ConvNormAct(in_channels, out_channels // 2)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H / 2, W / 2)."""
        return torch.cat((self.conv(self.reduce(features)), self.pooled(self.pool(features))), 1)


class AConv(HalvingLayer):
    """The mean of neighbours, then a convolution of stride 2 (YOLOv9)."""

    mindyolo_names = {"conv": "cv1"}

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.mean = nn.AvgPool2d(2, 1)
        self.conv = ConvNormAct(in_channels, out_channels, 3, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H / 2, W / 2)."""
        return self.conv(self.mean(features))


class ADown(HalvingLayer):
    """The mean of neighbours; then a convolution on half of the channels, a max-pool on the rest (YOLOv9)."""

    mindyolo_names = {"conv": "cv1", "pooled": "cv2"}

    max_pool = staticmethod(padded_max_pool)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.mean = nn.AvgPool2d(2, 1)
        self.pool = self.max_pool(3, 2)
        self.conv = ConvNormAct(in_channels // 2, out_channels // 2, 3, 2)
        self.pooled = ConvNormAct(in_channels // 2, out_channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H / 2, W / 2)."""
        first, second = self.mean(features).chunk(2, 1)
        return torch.cat((self.conv(first), self.pooled(self.pool(second))), 1)


class SCDown(Layer):
    """Channels first, by 1x1; then space, by a depthwise convolution (YOLOv10, section 3.2)."""

    mindyolo_names = {"channels": "cv1", "space": "cv2"}

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.step = out_channels, stride
        self.channels = ConvNormAct(in_channels, out_channels)
        self.space = ConvNormAct(out_channels, out_channels, kernel, stride, groups=out_channels, act=False)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, kernel: int, stride: int) -> SCDown:
        """Takes the row arguments channels (scaled), kernel, stride."""
        return cls(row.in_channels, row.scaling.channels(channels), kernel, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H', W')."""
        return self.space(self.channels(features))
