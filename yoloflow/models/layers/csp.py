"""Cross-stage partial blocks (Wang et al. 2020): split the channels, work on one part, merge all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.convolution import Bottleneck, ConvNormAct
from yoloflow.models.layers.reparameterized import RepVGGDW
from yoloflow.models.layers.routing import halves

MakeBlock = Callable[[int], nn.Module]
"""Makes a block that keeps the given number of channels."""


class InvertedBlock(nn.Module):
    """Depthwise 3x3, 1x1 to twice the channels, depthwise, 1x1 back, depthwise 3x3 (YOLOv10, figure 3b).

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


class CrossStage(Layer):
    """A chain of blocks between 1x1 convolutions.

    Args:
        repeats: blocks in the chain.
        make_block: makes a block.
        expansion: channels of a block, as a share of `out_channels`.
    """

    takes_repeats = True
    merges_links: ClassVar[bool] = False
    """Whether what each block gives is merged too, beside two parts."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int,
        make_block: MakeBlock,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        hidden = int(out_channels * expansion)
        self._add_entry(in_channels, hidden)
        merged_parts = 2 + repeats if self.merges_links else 2
        self.merge = ConvNormAct(merged_parts * hidden, out_channels)
        self.blocks = nn.ModuleList(make_block(hidden) for _ in range(repeats))

    @abstractmethod
    def _add_entry(self, in_channels: int, hidden: int) -> None:
        """Adds the convolutions before the blocks."""

    def _run_blocks(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return features


class C3(CrossStage):
    """Two 1x1 convolutions side by side, one followed by the chain; both merged by a third (YOLOv5)."""

    mindyolo_names = {"main": "conv1", "side": "conv2", "merge": "conv3", "blocks": "m"}

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, shortcut: bool = True) -> C3:
        """Takes the row arguments channels (scaled), shortcut."""
        out_channels = row.scaling.channels(channels)
        return cls(row.in_channels, out_channels, row.repeats, _bottleneck((1, 3), shortcut))

    def _add_entry(self, in_channels: int, hidden: int) -> None:
        self.main = ConvNormAct(in_channels, hidden)
        self.side = ConvNormAct(in_channels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        main = self._run_blocks(self.main(features))
        return self.merge(torch.cat((main, self.side(features)), 1))


class DWC3(C3):
    """C3 of bottlenecks with depthwise separable convolutions (YOLOX-Nano)."""

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, shortcut: bool = True) -> DWC3:
        """Takes the row arguments channels (scaled), shortcut."""
        make_block = _bottleneck((1, 3), shortcut, separable=True)
        return cls(row.in_channels, row.scaling.channels(channels), row.repeats, make_block)


class SplitChain(CrossStage):
    """The chain on half of the channels of one convolution, every link of which is kept."""

    merges_links = True
    mindyolo_names = {"split": "cv1", "merge": "cv2", "blocks": "m"}

    def _add_entry(self, in_channels: int, hidden: int) -> None:
        self.split = ConvNormAct(in_channels, 2 * hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        links, last = halves(self.split(features))
        for block in self.blocks:
            last = block(last)
            links.append(last)
        return self.merge(torch.cat(links, 1))


class C2(SplitChain):
    """A chain of bottlenecks on the first half of the channels, only the end of which is kept (YOLOv8-P6)."""

    merges_links = False

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, shortcut: bool = True) -> C2:
        """Takes the row arguments channels (scaled), shortcut."""
        out_channels = row.scaling.channels(channels)
        return cls(row.in_channels, out_channels, row.repeats, _bottleneck((3, 3), shortcut))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        main, side = self.split(features).chunk(2, 1)
        return self.merge(torch.cat((self._run_blocks(main), side), 1))


class C2f(SplitChain):
    """YOLOv8's block: a chain of bottlenecks."""

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, shortcut: bool = False, expansion: float = 0.5) -> C2f:
        """Takes the row arguments channels (scaled), shortcut, expansion."""
        out_channels = row.scaling.channels(channels)
        return cls(row.in_channels, out_channels, row.repeats, _bottleneck((3, 3), shortcut), expansion)


class C2fCIB(SplitChain):
    """A chain of compact inverted blocks (YOLOv10, Wang et al. 2024, section 3.2)."""

    @classmethod
    def from_row(
        cls, row: LayerRow, channels: int, shortcut: bool = False, large_kernel: bool = False
    ) -> C2fCIB:
        """Takes the row arguments channels (scaled), shortcut, large_kernel."""
        make_block = partial(InvertedBlock, shortcut=shortcut, large_kernel=large_kernel)
        return cls(row.in_channels, row.scaling.channels(channels), row.repeats, make_block)


class C3k2(SplitChain):
    """A chain of bottlenecks, or of C3 with two bottlenecks of 3x3 kernels (YOLOv11)."""

    @classmethod
    def from_row(
        cls,
        row: LayerRow,
        channels: int,
        nested: bool = False,
        expansion: float = 0.5,
        shortcut: bool = True,
    ) -> C3k2:
        """Takes the row arguments channels (scaled), nested (C3 inside: m, l, x), expansion, shortcut."""
        inner = _bottleneck((3, 3), shortcut)

        def make_block(hidden: int) -> nn.Module:
            if nested or row.scaling.size in ("m", "l", "x"):
                return C3(hidden, hidden, 2, inner)
            return Bottleneck(hidden, hidden, shortcut=shortcut, kernels=(3, 3))

        return cls(row.in_channels, row.scaling.channels(channels), row.repeats, make_block, expansion)


def _bottleneck(kernels: tuple[int, int], shortcut: bool, separable: bool = False) -> MakeBlock:
    def make_block(hidden: int) -> nn.Module:
        return Bottleneck(
            hidden, hidden, shortcut=shortcut, kernels=kernels, expansion=1.0, separable=separable
        )

    return make_block
