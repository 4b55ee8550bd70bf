"""Heads that correct anchor boxes: YOLOv3, YOLOv5 and YOLOv7."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from yoloflow.decoding import cell_corners, decode_anchor_boxes
from yoloflow.models.heads.yolov8 import check_strides
from yoloflow.models.layers.contract import Head, HeadOutput, LayerRow

Anchors = Sequence[Sequence[float]]
"""Widths and heights in pixels, level by level: w, h, w, h, ..."""


class AnchorHead(Head):
    """A head that predicts four corrections, an object logit and class logits for each cell and anchor.

    Args:
        anchors: see `Anchors`.

    Raises:
        ValueError: not as many levels of anchors as of maps, or not equally many in each.
    """

    output_kind = HeadOutput(has_objectness=True)
    inputs_a_level: ClassVar[int] = 1
    mindyolo_names = {"convs": "m"}
    class_parts: ClassVar[tuple[str, ...]] = ("convs",)
    rows_before_classes = 5
    anchor_grid: Tensor

    def __init__(
        self, in_channels: Sequence[int], anchors: Anchors, stride: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        if len(anchors) != len(in_channels) or len({len(level) for level in anchors}) != 1:
            raise ValueError(f"needs {len(in_channels)} equally long levels of anchors, found {anchors}")
        self.stride = list(stride)
        self.num_classes = num_classes
        self.num_anchors = len(anchors[0]) // 2
        pixels = torch.tensor(anchors, dtype=torch.float32, device="cpu")
        pixels = pixels.view(len(anchors), 1, self.num_anchors, 1, 1, 2)
        self.register_buffer("anchor_grid", pixels, persistent=False)
        self.convs = self._convs(in_channels)

    @classmethod
    def from_row(cls, row: LayerRow, num_classes: int, anchors: Anchors, stride: Sequence[int]) -> Self:
        """Takes the row arguments nc, anchors, stride.

        Raises:
            ValueError: the maps' strides are not those that the table states, for each set of branches.
        """
        check_strides(row, [*stride] * cls.inputs_a_level)
        return cls([shape.channels for shape in row.inputs], anchors, stride, num_classes)

    @property
    def anchors(self) -> Tensor:
        """Returns the (L, A, 2) anchors in cells of their level."""
        stride = torch.tensor(self.stride, device=self.anchor_grid.device).view(-1, 1, 1)
        return self.anchor_grid.flatten(1, 4).view(len(self.stride), -1, 2) / stride

    def _convs(self, in_channels: Sequence[int]) -> nn.ModuleList:
        """Makes the levels' 1x1 convolutions, for 8 objects in a 640 px image (Focal Loss, section 3.3)."""
        width = self.num_classes + 5
        convs = nn.ModuleList(nn.Conv2d(channels, width * self.num_anchors, 1) for channels in in_channels)
        with torch.no_grad():
            for level, stride in enumerate(self.stride):
                bias = convs.get_parameter(f"{level}.bias").view(self.num_anchors, width)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99))
        return convs

    def _by_anchor(self, raw: Tensor) -> Tensor:
        """Maps (B, A * (5 + C), H, W) to (B, A, H, W, 5 + C)."""
        batch, _, height, width = raw.shape
        return raw.view(batch, self.num_anchors, -1, height, width).permute(0, 1, 3, 4, 2).contiguous()

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps (B, C_l, H_l, W_l) into L raw maps (B, A, H_l, W_l, 5 + C)."""
        return [self._by_anchor(conv(level)) for level, conv in zip(features, self.convs, strict=True)]

    def decode(self, raw: Any) -> Tensor:
        """Turns L raw maps into (B, N, 5 + C) float32: cx, cy, w, h in input pixels, then scores in 0..1."""
        decoded = []
        for level, stride, anchors in zip(raw, self.stride, self.anchor_grid, strict=True):
            sigmoid = level.float().sigmoid()
            corners = cell_corners(level.shape[2:4], level.device)
            boxes = decode_anchor_boxes(sigmoid, anchors / stride, corners) * stride
            decoded.append(torch.cat((boxes, sigmoid[..., 4:]), -1).flatten(1, 3))
        return torch.cat(decoded, 1)


class YOLOv7Head(AnchorHead):
    """An anchor head with learnt vectors around its convolutions (YOLOR, Wang et al. 2021)."""

    factor_mean: ClassVar[float] = 1.0
    mindyolo_names = {"convs": "m", "added": "ia", "factors": "im"}
    class_parts: ClassVar[tuple[str, ...]] = ("convs", "factors")
    neutral = {"added": 0.0, "factors": 1.0}

    def __init__(
        self, in_channels: Sequence[int], anchors: Anchors, stride: Sequence[int], num_classes: int
    ) -> None:
        super().__init__(in_channels, anchors, stride, num_classes)
        width = self.num_anchors * (num_classes + 5)
        self.added = nn.ModuleList(ImplicitVector(channels, 0.0) for channels in in_channels)
        self.factors = nn.ModuleList(ImplicitVector(width, self.factor_mean) for _ in in_channels)
        self.is_folded = False

    def _parts(self) -> Iterator[tuple[nn.Conv2d, nn.Parameter, nn.Parameter]]:
        """Returns the convolution, the added vector and the factors of each level."""
        for conv, added, factor in zip(self.convs, self.added, self.factors, strict=True):
            assert isinstance(conv, nn.Conv2d)
            yield conv, added.get_parameter("implicit"), factor.get_parameter("implicit")

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps (B, C_l, H_l, W_l) into L raw maps (B, A, H_l, W_l, 5 + C)."""
        if self.is_folded:
            return super().forward(features)
        return [
            self._by_anchor(conv(level + added) * factor)
            for level, (conv, added, factor) in zip(features, self._parts(), strict=True)
        ]

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Fold both vectors into the convolutions, in place, for inference."""
        if self.is_folded:
            return
        for conv, added, factor in self._parts():
            assert conv.bias is not None
            conv.bias += (conv.weight.flatten(1) * added.flatten()).sum(1)
            conv.weight *= factor.view(-1, 1, 1, 1)
            conv.bias *= factor.flatten()
        self.added, self.factors, self.is_folded = nn.ModuleList(), nn.ModuleList(), True


class YOLOv7AuxHead(YOLOv7Head):
    """A YOLOv7 head with an auxiliary one on further maps, which only training needs (section 4.2).

    Raw predictions in train mode are the main head's L maps, then the auxiliary head's; else the former.

    It takes 2 L maps, the main head's first, and the anchors and strides of L levels.
    """

    inputs_a_level = 2
    mindyolo_names = {**YOLOv7Head.mindyolo_names, "auxiliary_convs": "m2"}
    class_parts = (*YOLOv7Head.class_parts, "auxiliary_convs")

    def __init__(
        self, in_channels: Sequence[int], anchors: Anchors, stride: Sequence[int], num_classes: int
    ) -> None:
        levels = len(in_channels) // 2
        super().__init__(in_channels[:levels], anchors, stride, num_classes)
        self.auxiliary_convs = self._convs(in_channels[levels:])

    def forward(self, features: list[Tensor]) -> Any:
        """Turns 2 L maps (B, C_l, H_l, W_l) into raw maps (B, A, H_l, W_l, 5 + C)."""
        levels = len(self.stride)
        main = super().forward(features[:levels])
        if not self.training:
            return main
        further = zip(features[levels:], self.auxiliary_convs, strict=True)
        return [*main, *(self._by_anchor(conv(level)) for level, conv in further)]

    def trim(self, num_inputs: int) -> list[int]:
        """Drop the auxiliary head."""
        self.auxiliary_convs = nn.ModuleList()
        return list(range(num_inputs // 2))


class ImplicitVector(nn.Module):
    """A learnt vector, one number for each channel.

    Args:
        channels: its length.
        around: mean of the start values; their standard deviation is 0.02.
    """

    def __init__(self, channels: int, around: float) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(around, 0.02))
