"""Cross-stage partial blocks: split the channels, work on one part, merge all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow, MapShape
from yoloflow.models.layers.convolution import Bottleneck, ConvNormAct


class C2f(Layer):
    """YOLOv8's block: a chain of bottlenecks on half of the channels, every link of which is kept.

    Args:
        in_channels: channels it takes.
        out_channels: channels it gives.
        repeats: bottlenecks in the chain.
        shortcut: whether each bottleneck adds what it takes.
        groups: groups of each bottleneck's second convolution.
        expansion: channels of a link, as a share of `out_channels`.
    """

    takes_repeats = True
    mindyolo_names: ClassVar[dict[str, str]] = {"split": "cv1", "merge": "cv2", "blocks": "m"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int = 1,
        *,
        shortcut: bool = False,
        groups: int = 1,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        hidden = int(out_channels * expansion)
        self.split = ConvNormAct(in_channels, 2 * hidden)
        self.merge = ConvNormAct((2 + repeats) * hidden, out_channels)
        self.blocks = nn.ModuleList(
            Bottleneck(hidden, hidden, shortcut=shortcut, kernels=(3, 3), groups=groups, expansion=1.0)
            for _ in range(repeats)
        )

    @classmethod
    def from_row(
        cls, row: LayerRow, channels: int, shortcut: bool = False, groups: int = 1, expansion: float = 0.5
    ) -> C2f:
        """Row arguments: channels (scaled), shortcut, groups, expansion."""
        out_channels = row.scaling.channels(channels)
        return cls(
            row.in_channels, out_channels, row.repeats, shortcut=shortcut, groups=groups, expansion=expansion
        )

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Its own channels, the same stride."""
        return MapShape(self.out_channels, inputs[0].stride)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        links = list(self.split(features).chunk(2, 1))
        for block in self.blocks:
            links.append(block(links[-1]))
        result: Tensor = self.merge(torch.cat(links, 1))
        return result
