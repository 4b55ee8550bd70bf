"""Heads with distributions of box sides: YOLOv8 and the families built on it, 9, 10 and 11."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from yoloflow.boxes import cxcywh_to_xyxy
from yoloflow.decoding import cell_centres, distances_to_cxcywh, expected_distances
from yoloflow.models.layers.contract import Head, HeadOutput, LayerRow
from yoloflow.models.layers.convolution import ConvNormAct

MAX_DETECTIONS = 300
"""Rows of an image that YOLOv10's head gives."""


class YOLOv8Head(Head):
    """A head that predicts four distributions of distances to the box sides and class logits for each cell.

    Args:
        reg_max: bins of each distribution.
    """

    output_kind = HeadOutput()
    inputs_a_level: ClassVar[int] = 1
    box_groups: ClassVar[int] = 1
    mindyolo_names = {"box_branches": "cv2", "class_branches": "cv3"}
    class_parts: ClassVar[tuple[str, ...]] = ("class_branches",)

    def __init__(
        self, in_channels: Sequence[int], stride: Sequence[int], num_classes: int, reg_max: int = 16
    ) -> None:
        super().__init__()
        self.stride = list(stride)
        self.num_classes = num_classes
        self.reg_max = reg_max
        self.box_branches, self.class_branches = self._branches(in_channels)
        self.dfl = DFL(reg_max)

    @classmethod
    def from_row(cls, row: LayerRow, num_classes: int, reg_max: int, stride: Sequence[int]) -> Self:
        """Takes the row arguments nc, reg_max, stride.

        Raises:
            ValueError: the maps' strides are not those that the table states, for each set of branches.
        """
        check_strides(row, [*stride] * cls.inputs_a_level)
        channels = [shape.channels for shape in row.inputs]
        return cls(channels, stride, num_classes, reg_max)

    def _branches(self, in_channels: Sequence[int]) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Makes the box and class branches of all levels.

        They start with boxes some cells wide, and as if a 640 px image held 5 objects of any class.
        """
        boxes = nn.ModuleList(self._box_branch(channels, in_channels[0]) for channels in in_channels)
        scores = nn.ModuleList(self._class_branch(channels, in_channels[0]) for channels in in_channels)
        with torch.no_grad():
            for level, stride in enumerate(self.stride):
                boxes.get_parameter(f"{level}.2.bias").fill_(1.0)
                share = 5 / self.num_classes / (640 / stride) ** 2
                scores.get_parameter(f"{level}.2.bias").fill_(math.log(share))
        return boxes, scores

    def _box_branch(self, in_channels: int, first_channels: int) -> nn.Sequential:
        groups = self.box_groups
        hidden = math.ceil(max(16, first_channels // 4, 4 * self.reg_max) / groups) * groups
        return plain_branch(in_channels, hidden, 4 * self.reg_max, groups)

    def _class_branch(self, in_channels: int, first_channels: int) -> nn.Sequential:
        hidden = self._class_branch_width(first_channels)
        return plain_branch(in_channels, hidden, self.num_classes)

    def _class_branch_width(self, first_channels: int) -> int:
        """Returns the channels inside the class branches, as the newer original has them."""
        return max(first_channels, min(self.num_classes, 100))

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps (B, C_l, H_l, W_l) into L raw maps (B, 4 * reg_max + C, H_l, W_l)."""
        return run_branches(features, self.box_branches, self.class_branches)

    def decode(self, raw: Any) -> Tensor:
        """Turns L raw maps into (B, N, 4 + C) float32: cx, cy, w, h in input pixels, then scores in 0..1."""
        flat = torch.cat([level.flatten(2) for level in raw], 2).float()
        logits, scores = flat[:, : 4 * self.reg_max], flat[:, 4 * self.reg_max :]
        centres, strides = cell_centres([level.shape[2:] for level in raw], self.stride, flat.device)
        boxes_cxcywh = distances_to_cxcywh(centres, self.dfl(logits)) * strides
        return torch.cat((boxes_cxcywh, scores.transpose(1, 2).sigmoid()), -1)


class YOLOv11Head(YOLOv8Head):
    """A YOLOv8 head with class branches of depthwise separable convolutions."""

    def _class_branch(self, in_channels: int, first_channels: int) -> nn.Sequential:
        hidden = self._class_branch_width(first_channels)
        return nn.Sequential(
            _separable(in_channels, hidden),
            _separable(hidden, hidden),
            nn.Conv2d(hidden, self.num_classes, 1),
        )


class YOLOv10Head(YOLOv11Head):
    """A head with two sets of branches (YOLOv10, Wang et al. 2024, section 3.1).

    One learns from many cells for each object, the other from one and needs no NMS; the second does not
    train the network below. Raw predictions are those of the first and those of the second; after `trim`
    those of the second alone.
    """

    output_kind = HeadOutput(end_to_end=True)
    mindyolo_names = {
        **YOLOv8Head.mindyolo_names,
        "single_box_branches": "one2one_cv2",
        "single_class_branches": "one2one_cv3",
    }
    class_parts = ("class_branches", "single_class_branches")

    def __init__(
        self, in_channels: Sequence[int], stride: Sequence[int], num_classes: int, reg_max: int = 16
    ) -> None:
        super().__init__(in_channels, stride, num_classes, reg_max)
        self.single_box_branches, self.single_class_branches = self._branches(in_channels)
        self.single_box_branches.load_state_dict(self.box_branches.state_dict())
        self.single_class_branches.load_state_dict(self.class_branches.state_dict())
        self.is_trimmed = False

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps into the raw maps of both sets of branches, as `YOLOv8Head` gives for one."""
        detached = [level.detach() for level in features]
        single = run_branches(detached, self.single_box_branches, self.single_class_branches)
        return single if self.is_trimmed else (super().forward(features), single)

    def decode(self, raw: Any) -> Tensor:
        """Turns the second set's raw maps into (B, 300, 6) float32: x1, y1, x2, y2 in pixels, score, class.

        The best cells by their best class first, then the best (cell, class) pairs of these; fewer rows
        where there are fewer cells.
        """
        decoded = super().decode(raw if self.is_trimmed else raw[1])
        boxes, scores = cxcywh_to_xyxy(decoded[..., :4]), decoded[..., 4:]
        number = min(MAX_DETECTIONS, scores.shape[1])
        cells = scores.amax(-1).topk(number).indices[..., None]
        boxes = boxes.gather(1, cells.expand(-1, -1, 4))
        scores = scores.gather(1, cells.expand(-1, -1, self.num_classes))
        best, pairs = scores.flatten(1).topk(number)
        boxes = boxes.gather(1, (pairs // self.num_classes)[..., None].expand(-1, -1, 4))
        classes = (pairs % self.num_classes).to(best.dtype)
        return torch.cat((boxes, best[..., None], classes[..., None]), -1)

    def trim(self, num_inputs: int) -> list[int]:
        """Drop the branches that learn from many cells."""
        self.is_trimmed = True
        self.box_branches, self.class_branches = nn.ModuleList(), nn.ModuleList()
        return super().trim(num_inputs)


class YOLOv9Head(YOLOv8Head):
    """A head with auxiliary branches and grouped box branches (YOLOv9, Wang et al. 2024, section 4.1).

    The first L of 2 L maps feed the auxiliary branches, which only training needs. Raw predictions are the
    auxiliary ones and the main ones; after `trim` the main ones alone.
    """

    inputs_a_level = 2
    box_groups = 4
    mindyolo_names = {
        "auxiliary_box_branches": "cv2",
        "auxiliary_class_branches": "cv3",
        "box_branches": "cv4",
        "class_branches": "cv5",
        "dfl": "dfl2",
        "auxiliary_dfl": "dfl",
    }
    inference_names = {**YOLOv8Head.mindyolo_names, "dfl": "dfl"}
    class_parts = ("class_branches", "auxiliary_class_branches")

    def __init__(
        self, in_channels: Sequence[int], stride: Sequence[int], num_classes: int, reg_max: int = 16
    ) -> None:
        levels = len(in_channels) // 2
        super().__init__(in_channels[levels:], stride, num_classes, reg_max)
        auxiliary = self._branches(in_channels[:levels])
        self.auxiliary_box_branches, self.auxiliary_class_branches = auxiliary
        # Unused, but one of the original's parameters, which are counted and saved.
        self.auxiliary_dfl: nn.Module | None = DFL(reg_max)
        self.is_trimmed = False

    def _class_branch_width(self, first_channels: int) -> int:
        return max(first_channels, min(2 * self.num_classes, 128))

    def forward(self, features: list[Tensor]) -> Any:
        """Turns 2 L maps into the raw maps of both branches, as `YOLOv8Head` gives for one."""
        if self.is_trimmed:
            return super().forward(features)
        levels = len(self.stride)
        auxiliary = run_branches(
            features[:levels], self.auxiliary_box_branches, self.auxiliary_class_branches
        )
        return auxiliary, super().forward(features[levels:])

    def decode(self, raw: Any) -> Tensor:
        """Turns the main branches' raw maps into (B, N, 4 + C), as `YOLOv8Head`."""
        return super().decode(raw if self.is_trimmed else raw[1])

    def trim(self, num_inputs: int) -> list[int]:
        """Drop the auxiliary branches."""
        self.is_trimmed = True
        self.auxiliary_box_branches, self.auxiliary_class_branches = nn.ModuleList(), nn.ModuleList()
        self.auxiliary_dfl = None
        return list(range(num_inputs // 2, num_inputs))


class DFL(nn.Module):
    """A layer that computes the expected value of each box side's distribution.

    The bins 0, 1, ... are a frozen parameter, as in the originals: it is counted and saved, never trained.

    Args:
        bins: number of bins of a side.
    """

    def __init__(self, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            # On the CPU: on the meta device torch imports its compiler for this, which takes a second.
            numbers = torch.arange(bins, dtype=torch.float32, device="cpu")
            self.conv.weight.copy_(numbers.view(1, bins, 1, 1))

    def forward(self, logits: Tensor) -> Tensor:
        """Maps (B, 4 * bins, N) float32 logits to (B, N, 4) distances in cells."""
        # Not len(logits): that makes the batch a constant of an exported file.
        sides = logits.view(logits.shape[0], 4, self.bins, -1)
        return expected_distances(sides, self.conv.weight.float().flatten())


def check_strides(row: LayerRow, stride: Sequence[int]) -> None:
    """Raise ValueError unless a head's maps have the strides that the table states."""
    found = [shape.stride for shape in row.inputs]
    if found != list(stride):
        raise ValueError(f"network.stride gives {list(stride)}, but the maps in `from` have strides {found}")


def run_branches(features: list[Tensor], boxes: nn.ModuleList, scores: nn.ModuleList) -> list[Tensor]:
    """Returns the raw maps of all levels: box logits, then class logits."""
    return [
        torch.cat((box(level), score(level)), 1)
        for level, box, score in zip(features, boxes, scores, strict=True)
    ]


def plain_branch(in_channels: int, hidden: int, out_channels: int, groups: int = 1) -> nn.Sequential:
    """Makes two 3x3 convolutions and a 1x1 one; all but the first in groups."""
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, 3),
        ConvNormAct(hidden, hidden, 3, groups=groups),
        nn.Conv2d(hidden, out_channels, 1, groups=groups),
    )


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, 3, groups=in_channels), ConvNormAct(in_channels, out_channels)
    )
