"""Objects to learn: labels decoded into boxes and classes, for all losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yoloflow.boxes import cxcywh_to_xyxy


class Objects(NamedTuple):
    """The G objects of each of B images.

    Attributes:
        boxes_cxcywh_norm: (B, G, 4); anything in padding rows.
        classes: (B, G) int64, 0 in padding rows.
        is_object: (B, G) bool, false in padding rows.
    """

    boxes_cxcywh_norm: Tensor
    classes: Tensor
    is_object: Tensor

    def boxes_cxcywh(self, image_size_hw: Sequence[int]) -> Tensor:
        """Returns (B, G, 4) centre boxes in pixels; anything in padding rows."""
        return _scaled(self.boxes_cxcywh_norm, image_size_hw)

    def boxes_xyxy(self, image_size_hw: Sequence[int]) -> Tensor:
        """Returns (B, G, 4) corner boxes in pixels, zeros in padding rows."""
        corners = _scaled(cxcywh_to_xyxy(self.boxes_cxcywh_norm), image_size_hw)
        return torch.where(self.is_object[..., None], corners, 0)


def read_objects(labels: Tensor) -> Objects:
    """Decodes the labels of `Loss.forward`; every image gets one row at least."""
    labels = labels.float()
    if labels.shape[1] == 0:
        labels = labels.new_full((len(labels), 1, 6), -1)
    return Objects(labels[..., 2:6], labels[..., 1].long().clamp(0), labels[..., 1] >= 0)


def class_targets(logits: Tensor, classes: Tensor, smoothing: float) -> Tensor:
    """Returns targets (..., C) for logits: 1 for the class (..., 1), else 0, both off by `smoothing` / 2."""
    low = 0.5 * smoothing
    return torch.full_like(logits, low).scatter(-1, classes, 1 - low)


def _scaled(boxes_norm: Tensor, image_size_hw: Sequence[int]) -> Tensor:
    # By numbers, not by a tensor of them, which would be copied to the device at every step.
    height, width = image_size_hw
    first, second, third, fourth = boxes_norm.unbind(-1)
    return torch.stack((first * width, second * height, third * width, fourth * height), -1)
