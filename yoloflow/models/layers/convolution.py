"""Convolution, BatchNorm, activation: the block all families are made of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.norm_silu import can_join, norm_silu
from yoloflow.models.layers.normalization import batch_norm

Activation = Callable[[], nn.Module] | bool | None


def activation(choice: Activation) -> nn.Module:
    """Makes an activation: SiLU for True, none for False or None, else what `choice` makes."""
    if choice is True:
        return nn.SiLU()
    return choice() if choice else nn.Identity()


class ConvNormAct(Layer):
    """Convolution without bias, BatchNorm, activation; odd kernels keep the size at stride 1.

    Args:
        kernel: side of the square kernel.
        stride: step of the kernel.
        padding: cells added on each side; None keeps the size at stride 1.
        groups: groups of the convolution.
        dilation: distance between the cells of the kernel.
        act: True for SiLU, False for none, or a constructor.

    Attributes:
        joins_norm: whether BatchNorm and SiLU run in one kernel where they can; see `join_norms`.
    """

    joins_norm = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        act: Activation = True,
    ) -> None:
        super().__init__()
        self.out_channels, self.step = out_channels, stride
        padding = dilation * (kernel - 1) // 2 if padding is None else padding
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation, groups=groups, bias=False
        )
        self.bn: nn.Module = batch_norm(out_channels)
        self.act = activation(act)

    @classmethod
    def from_row(
        cls,
        row: LayerRow,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        act: Activation = True,
    ) -> ConvNormAct:
        """Takes the row arguments channels (scaled), kernel, stride, padding, groups, dilation, act."""
        out_channels = row.scaling.channels(channels)
        return cls(row.in_channels, out_channels, kernel, stride, padding, groups, dilation, act)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H', W')."""
        features = self.conv(features)
        if self.joins_norm and can_join(features, self.bn, self.act):
            return norm_silu(features, self.bn)
        result: Tensor = self.act(self.bn(features))
        return result

    def fold_norm(self) -> None:
        """Fold the BatchNorm's running statistics into the convolution, in place, for inference."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.bn.eval())
            self.bn = nn.Identity()


def join_norms(network: nn.Module, joined: bool = True) -> None:
    """Sets whether the blocks of a network run BatchNorm and SiLU in one kernel (`require_norm_silu`)."""
    for module in network.modules():
        if isinstance(module, ConvNormAct):
            module.joins_norm = joined


class DepthwiseSeparable(Layer):
    """A convolution of each channel by itself, then one over the channels (MobileNet, Howard et al. 2017)."""

    mindyolo_names = {"depthwise": "dconv", "pointwise": "pconv"}

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, act: Activation = True
    ) -> None:
        super().__init__()
        self.out_channels, self.step = out_channels, stride
        self.depthwise = ConvNormAct(in_channels, in_channels, kernel, stride, groups=in_channels, act=act)
        self.pointwise = ConvNormAct(in_channels, out_channels, act=act)

    @classmethod
    def from_row(
        cls, row: LayerRow, channels: int, kernel: int = 1, stride: int = 1, act: Activation = True
    ) -> DepthwiseSeparable:
        """Takes the row arguments channels (scaled), kernel, stride, act."""
        return cls(row.in_channels, row.scaling.channels(channels), kernel, stride, act)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H', W')."""
        return self.pointwise(self.depthwise(features))


class Bottleneck(Layer):
    """Two convolutions, added to what they take where `shortcut` and the channels allow it (YOLOv3).

    Args:
        shortcut: whether to add the input.
        kernels: sides of the two kernels.
        expansion: channels between the two, as a share of `out_channels`.
        act: see `ConvNormAct`.
        separable: make the second convolution a `DepthwiseSeparable` (YOLOX-Nano).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        shortcut: bool = True,
        kernels: tuple[int, int] = (1, 3),
        expansion: float = 0.5,
        act: Activation = True,
        separable: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = ConvNormAct(in_channels, hidden, kernels[0], act=act)
        second = DepthwiseSeparable if separable else ConvNormAct
        self.conv2: Layer = second(hidden, out_channels, kernels[1], act=act)
        self.adds = shortcut and in_channels == out_channels
        self.out_channels = out_channels

    @classmethod
    def from_row(
        cls, row: LayerRow, channels: int, shortcut: bool = True, act: Activation = True
    ) -> Bottleneck:
        """Takes the row arguments channels (scaled), shortcut, act."""
        return cls(row.in_channels, row.scaling.channels(channels), shortcut=shortcut, act=act)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        result: Tensor = self.conv2(self.conv1(features))
        return features + result if self.adds else result


class Residualblock(Layer):
    """A bottleneck that narrows nothing: 1x1 and 3x3 at full width, added to the input (YOLOv4)."""

    mindyolo_names = {"block": ""}

    def __init__(self, channels: int, act: Activation = True) -> None:
        super().__init__()
        self.block = Bottleneck(channels, channels, expansion=1.0, act=act)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, act: Activation = True) -> Residualblock:
        """Takes the row arguments channels (scaled; those it takes), act.

        Raises:
            ValueError: it takes another number of channels.
        """
        return cls(row.kept_channels(channels), act)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        return self.block(features)
