"""Pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow, MapShape
from yoloflow.models.layers.convolution import ConvNormAct


class SPPF(Layer):
    """Spatial pyramid pooling, fast: three max-pools in a row see as far as pools of k, 2k - 1 and 3k - 2."""

    mindyolo_names: ClassVar[dict[str, str]] = {"reduce": "conv1", "merge": "conv2"}

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.out_channels = out_channels
        self.reduce = ConvNormAct(in_channels, hidden)
        self.merge = ConvNormAct(4 * hidden, out_channels)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, kernel: int = 5) -> SPPF:
        """Row arguments: channels (scaled), kernel."""
        return cls(row.in_channels, row.scaling.channels(channels), kernel)

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Its own channels, the same stride."""
        return MapShape(self.out_channels, inputs[0].stride)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        levels = [self.reduce(features)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        result: Tensor = self.merge(torch.cat(levels, 1))
        return result
