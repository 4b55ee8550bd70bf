"""The head that segments: YOLOv8's with mask coefficients and prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from yoloflow.models.heads.yolov8 import YOLOv8Head, check_strides, plain_branch
from yoloflow.models.layers.contract import HeadOutput, LayerRow
from yoloflow.models.layers.convolution import ConvNormAct


class YOLOv8SegHead(YOLOv8Head):
    """A YOLOv8 head that also predicts masks (YOLACT, Bolya et al. 2019, section 3).

    The mask of a cell is the sigmoid of the sum of K prototypes, each times the cell's coefficient for it.

    Args:
        reg_max: bins of each distribution.
        num_masks: K.
        prototype_channels: channels inside the prototype branch.
    """

    output_kind = HeadOutput(mask_channels=32)
    mindyolo_names = {**YOLOv8Head.mindyolo_names, "mask_branches": "cv4", "prototypes": "proto"}

    def __init__(
        self,
        in_channels: Sequence[int],
        stride: Sequence[int],
        num_classes: int,
        reg_max: int = 16,
        num_masks: int = 32,
        prototype_channels: int = 256,
    ) -> None:
        super().__init__(in_channels, stride, num_classes, reg_max)
        self.output_kind = HeadOutput(mask_channels=num_masks)
        self.num_masks = num_masks
        self.prototypes = Prototypes(in_channels[0], prototype_channels, num_masks)
        hidden = max(in_channels[0] // 4, num_masks)
        self.mask_branches = nn.ModuleList(
            plain_branch(channels, hidden, num_masks) for channels in in_channels
        )

    @classmethod
    def from_row(  # type: ignore[override]
        cls,
        row: LayerRow,
        num_classes: int,
        reg_max: int,
        num_masks: int,
        prototype_channels: int,
        stride: Sequence[int],
    ) -> Self:
        """Takes the row arguments nc, reg_max, number of masks, prototype channels (scaled), stride.

        Raises:
            ValueError: the maps' strides are not those that the table states.
        """
        check_strides(row, stride)
        channels = [shape.channels for shape in row.inputs]
        hidden = row.scaling.channels(prototype_channels)
        return cls(channels, stride, num_classes, reg_max, num_masks, hidden)

    def forward(self, features: list[Tensor]) -> Any:
        """Turns L maps into raw maps as `YOLOv8Head`, coefficients (B, K, N) and prototypes (B, K, h, w).

        The prototypes have half the stride of the first map: a quarter of the image's sides.
        """
        coefficients = [
            branch(level).flatten(2) for branch, level in zip(self.mask_branches, features, strict=True)
        ]
        return super().forward(features), torch.cat(coefficients, 2), self.prototypes(features[0])

    def decode(self, raw: Any) -> Tensor:
        """Turns raw predictions into (B, N, 4 + C + K) float32: as `YOLOv8Head`, then the coefficients."""
        levels, coefficients, _ = raw
        return torch.cat((super().decode(levels), coefficients.transpose(1, 2).float()), -1)


class Prototypes(nn.Module):
    """The branch that makes the prototypes of the masks from the first map.

    Args:
        in_channels: channels of the map.
        hidden: channels inside.
        num_masks: K.
    """

    mindyolo_names: ClassVar[dict[str, str]] = {"coarse": "cv1", "fine": "cv2", "last": "cv3"}

    def __init__(self, in_channels: int, hidden: int, num_masks: int) -> None:
        super().__init__()
        self.coarse = ConvNormAct(in_channels, hidden, 3)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.fine = ConvNormAct(hidden, hidden, 3)
        self.last = ConvNormAct(hidden, num_masks)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, K, 2 H, 2 W)."""
        return self.last(self.fine(self.upsample(self.coarse(features))))
