"""YOLOX's head (Ge et al. 2021): anchor-free, class and box branches apart, with objectness."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yoloflow.decoding import bounded_exp, cell_centres
from yoloflow.models.heads.yolov8 import check_strides
from yoloflow.models.layers.contract import Head, HeadOutput, LayerRow
from yoloflow.models.layers.convolution import Activation, ConvNormAct, DepthwiseSeparable

DARKNET_HIDDEN = 256
"""Width of the branches behind a backbone that is not YOLOX's own."""
PRIOR = 0.01
"""Probability of an object and of each class that a new head predicts (Focal Loss, section 4.1)."""


class YOLOXHead(Head):
    """A head that predicts a box, an object logit and class logits for each cell.

    Args:
        hidden: channels inside.
        act: see `ConvNormAct`.
        separable: use depthwise separable convolutions (YOLOX-Nano).
    """

    output_kind = HeadOutput(has_objectness=True)
    mindyolo_names = {
        "class_convs": "cls_convs",
        "box_convs": "reg_convs",
        "class_outputs": "cls_preds",
        "box_outputs": "reg_preds",
        "object_outputs": "obj_preds",
    }
    class_parts = ("class_outputs",)

    def __init__(
        self,
        in_channels: Sequence[int],
        stride: Sequence[int],
        num_classes: int,
        hidden: int,
        act: Activation = True,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.stride = list(stride)
        self.num_classes = num_classes

        def branch() -> nn.Sequential:
            block = DepthwiseSeparable if separable else ConvNormAct
            return nn.Sequential(*(block(hidden, hidden, 3, act=act) for _ in range(2)))

        levels = range(len(in_channels))
        self.stems = nn.ModuleList(ConvNormAct(channels, hidden, act=act) for channels in in_channels)
        self.class_convs = nn.ModuleList(branch() for _ in levels)
        self.box_convs = nn.ModuleList(branch() for _ in levels)
        self.class_outputs = nn.ModuleList(nn.Conv2d(hidden, num_classes, 1) for _ in levels)
        self.box_outputs = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in levels)
        self.object_outputs = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in levels)
        with torch.no_grad():
            for output in (*self.class_outputs, *self.object_outputs):
                output.get_parameter("bias").fill_(-math.log((1 - PRIOR) / PRIOR))

    @classmethod
    def from_row(
        cls,
        row: LayerRow,
        num_classes: int,
        stride: Sequence[int],
        is_standard_backbone: bool = True,
        act: Activation = True,
        depth_wise: bool = False,
    ) -> YOLOXHead:
        """Takes the row arguments nc, stride, is_standard_backbone, act, depth_wise.

        The hidden width is a quarter of the coarsest map's, or 256 (scaled) for other backbones.

        Raises:
            ValueError: the maps' strides are not those that the table states.
        """
        check_strides(row, stride)
        channels = [shape.channels for shape in row.inputs]
        hidden = channels[-1] // 4 if is_standard_backbone else row.scaling.inner_channels(DARKNET_HIDDEN)
        return cls(channels, stride, num_classes, hidden, act, depth_wise)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Turns L maps (B, C_l, H_l, W_l) into (B, N, 5 + C) float32: cx, cy, w, h in pixels, logits."""
        levels = []
        for number, level in enumerate(features):
            stem = self.stems[number](level)
            scores = self.class_outputs[number](self.class_convs[number](stem))
            boxes = self.box_convs[number](stem)
            parts = (self.box_outputs[number](boxes), self.object_outputs[number](boxes), scores)
            levels.append(torch.cat(parts, 1))
        centres, strides = cell_centres([level.shape[2:] for level in levels], self.stride, levels[0].device)
        flat = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2).float()
        places = (flat[..., 0:2] + (centres - 0.5)) * strides
        sizes = bounded_exp(flat[..., 2:4]) * strides
        return torch.cat((places, sizes, flat[..., 4:]), -1)

    def decode(self, raw: Tensor) -> Tensor:
        """Turns the output of `forward` into (B, N, 5 + C): logits become scores in 0..1."""
        return torch.cat((raw[..., :4], raw[..., 4:].sigmoid()), -1)
