"""Mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.objects import move_boxes, move_polygons, with_picture
from yoloflow.data.transforms.pipeline import Transform
from yoloflow.structures import Sample, TransformContext


@dataclass(frozen=True, slots=True)
class FlipLeftRight(Transform):
    """Swaps left and right."""

    func_name: ClassVar[str] = "fliplr"

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The mirrored sample."""
        return _mirrored(sample, axis=1)


@dataclass(frozen=True, slots=True)
class FlipUpDown(Transform):
    """Swaps top and bottom."""

    func_name: ClassVar[str] = "flipud"

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The mirrored sample."""
        return _mirrored(sample, axis=0)


def _mirrored(sample: Sample, axis: int) -> Sample:
    """The sample mirrored along image axis 0 (rows) or 1 (columns)."""
    image = np.asarray(cv2.flip(sample.image, axis), np.uint8)
    row = 1 - axis
    matrix = np.eye(3)
    matrix[row, row], matrix[row, 2] = -1, image.shape[axis]
    return with_picture(
        sample, image, move_boxes(sample.boxes_xyxy, matrix), polygons=move_polygons(sample.polygons, matrix)
    )
