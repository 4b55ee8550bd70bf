"""Max-pools, alone and in pyramids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.convolution import Activation, ConvNormAct


def padded_max_pool(kernel: int, stride: int = 1) -> nn.Module:
    """Makes a max-pool padded with minus infinity by half its kernel."""
    return nn.MaxPool2d(kernel, stride, padding=kernel // 2)


class Pool(Layer):
    """A layer that is a max-pool.

    Args:
        pool: the pooling module.
        stride: its step.
    """

    mindyolo_names = {"pool": "m"}

    def __init__(self, pool: nn.Module, stride: int) -> None:
        super().__init__()
        self.pool, self.step = pool, stride

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, H', W')."""
        result: Tensor = self.pool(features)
        return result


class MaxPool(Pool):
    """A max-pool that keeps the size at stride 1."""

    @classmethod
    def from_row(cls, row: LayerRow, kernel: int = 3, stride: int = 1, mode: str = "same") -> MaxPool:
        """Takes the row arguments kernel, stride, mode ("same": padded with minus infinity).

        Raises:
            ValueError: another mode.
        """
        if mode != "same":
            raise ValueError(f"takes the mode 'same', not {mode!r}")
        return cls(padded_max_pool(kernel, stride), stride)


class MP(Pool):
    """A max-pool of cells that do not overlap (YOLOv7)."""

    @classmethod
    def from_row(cls, row: LayerRow, kernel: int = 2) -> MP:
        """Takes the row arguments kernel."""
        return cls(nn.MaxPool2d(kernel, kernel), kernel)


class SP(Pool):
    """A max-pool that sees a neighbourhood and keeps the size (YOLOv7-tiny)."""

    max_pool = staticmethod(padded_max_pool)

    @classmethod
    def from_row(cls, row: LayerRow, kernel: int = 3, stride: int = 1) -> SP:
        """Takes the row arguments kernel, stride."""
        return cls(cls.max_pool(kernel, stride), stride)


class SPPF(Layer):
    """Spatial pyramid pooling, fast: three max-pools in a row see as far as pools of k, 2k - 1 and 3k - 2.

    Args:
        hidden: channels of each link of the row.
        kernel: k.
        act: see `ConvNormAct`.
    """

    max_pool = staticmethod(padded_max_pool)
    mindyolo_names = {"reduce": "conv1", "merge": "conv2"}

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, kernel: int = 5, act: Activation = True
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.reduce = ConvNormAct(in_channels, hidden, act=act)
        self.merge = ConvNormAct(4 * hidden, out_channels, act=act)
        self.pool = self.max_pool(kernel)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, kernel: int = 5, act: Activation = True) -> SPPF:
        """Takes the row arguments channels (scaled), kernel, act."""
        return cls(row.in_channels, row.scaling.channels(channels), row.in_channels // 2, kernel, act)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        links = [self.reduce(features)]
        for _ in range(3):
            links.append(self.pool(links[-1]))
        return self.merge(torch.cat(links, 1))


class SPPELAN(SPPF):
    """Spatial pyramid pooling with links of a width of their own (YOLOv9)."""

    mindyolo_names = {"reduce": "cv1", "merge": "cv5"}

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, hidden: int) -> SPPELAN:  # type: ignore[override]
        """Takes the row arguments channels and hidden (both scaled)."""
        return cls(row.in_channels, row.scaling.channels(channels), row.scaling.inner_channels(hidden))


class SPPCSPC(Layer):
    """Spatial pyramid pooling on one side of a cross-stage split (YOLOv7)."""

    mindyolo_names = {
        "side": "cv2",
        "merge": "cv7",
        "before_0": "cv1",
        "before_1": "cv3",
        "before_2": "cv4",
        "after_0": "cv5",
        "after_1": "cv6",
    }

    max_pool = staticmethod(padded_max_pool)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = out_channels
        self.out_channels = out_channels
        self.before_0 = ConvNormAct(in_channels, hidden)
        self.before_1 = ConvNormAct(hidden, hidden, 3)
        self.before_2 = ConvNormAct(hidden, hidden)
        self.pools = nn.ModuleList(self.max_pool(kernel) for kernel in (5, 9, 13))
        self.after_0 = ConvNormAct(4 * hidden, hidden)
        self.after_1 = ConvNormAct(hidden, hidden, 3)
        self.side = ConvNormAct(in_channels, hidden)
        self.merge = ConvNormAct(2 * hidden, out_channels)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int) -> SPPCSPC:
        """Takes the row arguments channels (scaled)."""
        return cls(row.in_channels, row.scaling.channels(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        main = self.before_2(self.before_1(self.before_0(features)))
        pyramid = torch.cat([main, *(pool(main) for pool in self.pools)], 1)
        main = self.after_1(self.after_0(pyramid))
        return self.merge(torch.cat((main, self.side(features)), 1))
