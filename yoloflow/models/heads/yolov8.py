"""YOLOv8's head: anchor-free, box and class branches apart, no objectness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.boxes import anchor_points
from yoloflow.models.heads.distribution import DFL
from yoloflow.models.layers.contract import Head, HeadOutput, LayerRow, Variant
from yoloflow.models.layers.convolution import ConvNormAct


def class_branch_width(first_channels: int, num_classes: int, variant: Variant) -> int:
    """Channels inside the class branches.

    "published" is the newer original, `max(ch0, min(nc, 100))`; "mindyolo" is `max(ch0, nc)`, as the older
    one. They are equal up to 100 classes, and where the finest level has as many channels as classes.
    """
    return max(first_channels, min(num_classes, 100) if variant == "published" else num_classes)


class YOLOv8Head(Head):
    """For each cell four distributions of distances to the box sides, and a logit for each class.

    Args:
        in_channels: channels of the L maps.
        stride: their strides in pixels.
        num_classes: C.
        reg_max: bins of each distribution.
        variant: see `class_branch_width`.
    """

    output_kind = HeadOutput()
    mindyolo_names: ClassVar[dict[str, str]] = {"box_branches": "cv2", "class_branches": "cv3"}

    def __init__(
        self,
        in_channels: Sequence[int],
        stride: Sequence[int],
        num_classes: int,
        reg_max: int = 16,
        variant: Variant = "published",
    ) -> None:
        super().__init__()
        self.stride = list(stride)
        self.num_classes = num_classes
        self.reg_max = reg_max
        box_width = max(16, in_channels[0] // 4, 4 * reg_max)
        class_width = class_branch_width(in_channels[0], num_classes, variant)
        self.box_branches = nn.ModuleList(_branch(c, box_width, 4 * reg_max) for c in in_channels)
        self.class_branches = nn.ModuleList(_branch(c, class_width, num_classes) for c in in_channels)
        self.dfl = DFL(reg_max)
        self._start_biases()

    @classmethod
    def from_row(cls, row: LayerRow, num_classes: int, reg_max: int, stride: Sequence[int]) -> YOLOv8Head:
        """Row arguments: nc, reg_max, stride.

        Raises:
            ValueError: the maps' strides are not those that the table states.
        """
        found = [shape.stride for shape in row.inputs]
        if found != list(stride):
            raise ValueError(f"network.stride is {list(stride)}, but the maps in `from` have strides {found}")
        channels = [shape.channels for shape in row.inputs]
        return cls(channels, stride, num_classes, reg_max, row.variant)

    @torch.no_grad()
    def _start_biases(self) -> None:
        """Start with boxes some cells wide, and as if a 640 px image held 5 objects of any class."""
        for level, stride in enumerate(self.stride):
            self.get_parameter(f"box_branches.{level}.2.bias").fill_(1.0)
            share = 5 / self.num_classes / (640 / stride) ** 2
            self.get_parameter(f"class_branches.{level}.2.bias").fill_(math.log(share))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """L maps (B, C_l, H_l, W_l) to L raw maps (B, 4 * reg_max + C, H_l, W_l)."""
        return [
            torch.cat((box(level), scores(level)), 1)
            for level, box, scores in zip(features, self.box_branches, self.class_branches, strict=True)
        ]

    def decode(self, raw: list[Tensor]) -> Tensor:
        """L raw maps to (B, N, 4 + C) float32: cx, cy, w, h in input pixels, then scores in 0..1."""
        flat = torch.cat([level.flatten(2) for level in raw], 2).float()
        logits, scores = flat[:, : 4 * self.reg_max], flat[:, 4 * self.reg_max :]
        centres, strides = anchor_points(raw, self.stride)
        left_top, right_bottom = self.dfl(logits).transpose(1, 2).chunk(2, -1)
        centres = centres + (right_bottom - left_top) / 2
        boxes_cxcywh = torch.cat((centres, left_top + right_bottom), -1) * strides
        return torch.cat((boxes_cxcywh, scores.transpose(1, 2).sigmoid()), -1)


def _branch(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, 3),
        ConvNormAct(hidden, hidden, 3),
        nn.Conv2d(hidden, out_channels, 1),
    )
