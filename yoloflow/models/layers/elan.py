"""Efficient layer aggregation (ELAN, Wang et al. 2022) as YOLOv9 builds it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.csp import C3
from yoloflow.models.layers.reparameterized import RepConv
from yoloflow.models.layers.routing import halves


class RepNBottleneck(nn.Module):
    """A re-parameterised and a plain 3x3 convolution, added to the input."""

    mindyolo_names: ClassVar[dict[str, str]] = {"rep": "cv1", "conv": "cv2"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rep = RepConv(channels, channels, identity=False)
        self.conv = ConvNormAct(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        return features + self.conv(self.rep(features))


class RepNCSP(C3):
    """A C3 of re-parameterised bottlenecks."""

    mindyolo_names = {"main": "cv1", "side": "cv2", "merge": "cv3", "blocks": "m"}

    def __init__(self, in_channels: int, out_channels: int, repeats: int) -> None:
        super().__init__(in_channels, out_channels, repeats, RepNBottleneck)


class ELAN1(Layer):
    """Half of the channels through two convolutions, every link of which is kept.

    Args:
        split: channels after the first convolution.
        link: channels of each further link.
    """

    mindyolo_names = {"split": "cv1", "first": "cv2", "second": "cv3", "merge": "cv4"}

    def __init__(self, in_channels: int, out_channels: int, split: int, link: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.split = ConvNormAct(in_channels, split)
        self.first: nn.Module = ConvNormAct(split // 2, link, 3)
        self.second: nn.Module = ConvNormAct(link, link, 3)
        self.merge = ConvNormAct(split + 2 * link, out_channels)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, split: int, link: int) -> ELAN1:
        """Takes the row arguments channels, split, link (all scaled)."""
        inner = row.scaling.inner_channels
        return cls(row.in_channels, row.scaling.channels(channels), inner(split), inner(link))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        links, last = halves(self.split(features))
        for layer in (self.first, self.second):
            last = layer(last)
            links.append(last)
        return self.merge(torch.cat(links, 1))


class RepNCSPELAN4(ELAN1):
    """ELAN whose links are cross-stage blocks of re-parameterised bottlenecks (YOLOv9, section 4.2).

    Args:
        split: channels after the first convolution.
        link: channels of each further link.
        repeats: bottlenecks of a link.
    """

    def __init__(self, in_channels: int, out_channels: int, split: int, link: int, repeats: int) -> None:
        super().__init__(in_channels, out_channels, split, link)
        self.first = nn.Sequential(RepNCSP(split // 2, link, repeats), ConvNormAct(link, link, 3))
        self.second = nn.Sequential(RepNCSP(link, link, repeats), ConvNormAct(link, link, 3))

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, split: int, link: int, repeats: int = 1) -> RepNCSPELAN4:
        """Takes the row arguments channels, split, link (all scaled), repeats."""
        inner = row.scaling.inner_channels
        return cls(row.in_channels, row.scaling.channels(channels), inner(split), inner(link), repeats)
