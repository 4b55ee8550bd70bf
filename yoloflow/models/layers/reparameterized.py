"""Layers that are several convolutions in training and one in inference (RepVGG, Ding et al. 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.normalization import batch_norm, scale_and_shift


class RepConv(Layer):
    """SiLU of the sum of a 3x3 and a 1x1 convolution and, where it fits, the input, each with BatchNorm.

    Args:
        stride: step of both convolutions.
        identity: add the normalised input too, where channels and stride allow it (YOLOv7; not YOLOv9).
    """

    mindyolo_names = {"dense": "rbr_dense", "pointwise": "rbr_1x1", "identity": "rbr_identity"}

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, identity: bool = True
    ) -> None:
        super().__init__()
        self.out_channels, self.step = out_channels, stride
        self.dense: nn.Module = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), batch_norm(out_channels)
        )
        self.pointwise: nn.Module | None = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), batch_norm(out_channels)
        )
        fits = identity and in_channels == out_channels and stride == 1
        self.identity: nn.Module | None = batch_norm(in_channels) if fits else None
        self.act = nn.SiLU()

    @classmethod
    def from_row(cls, row: LayerRow, channels: int, kernel: int = 3, stride: int = 1) -> RepConv:
        """Takes the row arguments channels (scaled), kernel (3), stride.

        Raises:
            ValueError: another kernel.
        """
        if kernel != 3:
            raise ValueError(f"has a kernel of 3, not {kernel}")
        return cls(row.in_channels, row.scaling.channels(channels), stride)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H', W')."""
        total: Tensor = self.dense(features)
        if self.pointwise is not None:
            total = total + self.pointwise(features)
        if self.identity is not None:
            total = total + self.identity(features)
        result: Tensor = self.act(total)
        return result

    def fold_norm(self) -> None:
        """Make one 3x3 convolution of all branches (RepVGG, section 3.3), in place, for inference."""
        if self.pointwise is None:
            return
        dense, pointwise = _folded(self.dense), _folded(self.pointwise)
        assert dense.bias is not None
        assert pointwise.bias is not None
        with torch.no_grad():
            dense.weight += F.pad(pointwise.weight, (1, 1, 1, 1))
            dense.bias += pointwise.bias
            if isinstance(self.identity, nn.BatchNorm2d):
                scale, shift = scale_and_shift(self.identity)
                channels = torch.arange(len(scale), device=scale.device)
                dense.weight[channels, channels, 1, 1] += scale
                dense.bias += shift
        self.dense, self.pointwise, self.identity = dense, None, None


class RepVGGDW(nn.Module):
    """SiLU of the sum of a depthwise 7x7 and a depthwise 3x3 convolution, each with BatchNorm (YOLOv10)."""

    mindyolo_names: ClassVar[dict[str, str]] = {"large": "conv", "small": "conv1"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = ConvNormAct(channels, channels, 7, groups=channels, act=False)
        self.small: ConvNormAct | None = ConvNormAct(channels, channels, 3, groups=channels, act=False)
        self.act = nn.SiLU()

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        total: Tensor = self.large(features)
        if self.small is not None:
            total = total + self.small(features)
        result: Tensor = self.act(total)
        return result

    def fold_norm(self) -> None:
        """Make one 7x7 convolution of both, in place, for inference."""
        if self.small is None:
            return
        self.large.fold_norm()
        self.small.fold_norm()
        large, small = self.large.conv, self.small.conv
        assert large.bias is not None
        assert small.bias is not None
        with torch.no_grad():
            large.weight += F.pad(small.weight, (2, 2, 2, 2))
            large.bias += small.bias
        self.small = None


def _folded(branch: nn.Module) -> nn.Conv2d:
    """Returns a convolution and its BatchNorm as one convolution with bias."""
    assert isinstance(branch, nn.Sequential)
    conv, norm = branch
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv.eval(), norm.eval())
