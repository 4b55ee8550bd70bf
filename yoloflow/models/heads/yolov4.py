"""YOLOv4's head (Bochkovskiy et al. 2020): anchors, centres that reach a little beyond their cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.decoding import bounded_exp, cell_corners, filled
from yoloflow.models.layers.contract import Head, HeadOutput, LayerRow

REACH = {8: 1.2, 16: 1.1, 32: 1.05}
"""Stride -> width of the range of a cell's centres, in cells ("eliminate grid sensitivity", section 3.3)."""


class YOLOv4Head(Head):
    """A head that predicts a box, an object logit and class logits for each cell and anchor.

    Args:
        anchors: (w, h) in pixels of all levels, in the order of the maps.
        reach: width of the range of a cell's centres in cells, level by level (Darknet's scale_x_y); by
            default that of `REACH`.
    """

    output_kind = HeadOutput(has_objectness=True)
    mindyolo_names = {"convs": "m"}
    class_parts = ("convs",)
    rows_before_classes = 5
    anchors_wh: Tensor

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors: Sequence[Sequence[float]],
        stride: Sequence[int],
        num_classes: int,
        reach: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.reach = [REACH[step] for step in stride] if reach is None else list(reach)
        self.stride = list(stride)
        self.num_classes = num_classes
        pixels = torch.tensor(anchors, dtype=torch.float32, device="cpu").view(len(stride), -1, 2)
        self.num_anchors = pixels.shape[1]
        self.register_buffer("anchors_wh", pixels, persistent=False)
        width = self.num_anchors * (num_classes + 5)
        self.convs = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)

    @classmethod
    def from_row(
        cls,
        row: LayerRow,
        num_classes: int,
        anchors: Sequence[Sequence[float]],
        reach: Sequence[float] | None = None,
    ) -> YOLOv4Head:
        """Takes the row arguments nc, anchors, and reach, by default that of `REACH` for the maps' strides.

        Raises:
            ValueError: a map of a stride without a reach, not a reach for each map, or anchors that do not
                divide by levels.
        """
        stride = [int(shape.stride) for shape in row.inputs]
        if reach is None and not set(stride) <= set(REACH):
            raise ValueError(f"takes maps of strides {sorted(REACH)}, `from` names maps of strides {stride}")
        if reach is not None and (len(reach) != len(stride) or not all(width >= 1 for width in reach)):
            raise ValueError(f"needs {len(stride)} numbers from 1 on for the reach, found {reach}")
        if len(anchors) % len(stride):
            raise ValueError(f"{len(anchors)} anchors do not divide by {len(stride)} levels")
        return cls([shape.channels for shape in row.inputs], anchors, stride, num_classes, reach)

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps into L times: raw (B, H, W, A, 5 + C), and the boxes' centres and sizes in 0..1."""
        outputs = []
        for level, conv, stride, anchors, reach in zip(
            features, self.convs, self.stride, self.anchors_wh, self.reach, strict=True
        ):
            batch, _, height, width = level.shape
            raw = conv(level).view(batch, self.num_anchors, -1, height, width).permute(0, 3, 4, 1, 2)
            wide = raw.float()
            corners = cell_corners((height, width), raw.device)[:, :, None]
            cells_wh = filled((width, height), corners)
            centres = (wide[..., 0:2].sigmoid() * reach - (reach - 1) / 2 + corners) / cells_wh
            sizes = bounded_exp(wide[..., 2:4]) * anchors / (cells_wh * stride)
            outputs.append((raw, centres, sizes))
        return outputs

    def decode(self, raw: Any) -> Tensor:
        """Turns outputs of `forward` into (B, N, 5 + C): cx, cy, w, h in input pixels, scores in 0..1."""
        decoded = []
        for (logits, centres, sizes), stride in zip(raw, self.stride, strict=True):
            height, width = logits.shape[1:3]
            pixels = filled((width * stride, height * stride), centres)
            scores = logits[..., 4:].float().sigmoid()
            decoded.append(torch.cat((centres * pixels, sizes * pixels, scores), -1).flatten(1, 3))
        return torch.cat(decoded, 1)
