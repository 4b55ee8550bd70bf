"""Transforms that mirror."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.geometry import move_boxes, move_polygons
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext


@dataclass(frozen=True, slots=True)
class FlipLeftRight(Transform):
    """Swaps left and right."""

    func_name: ClassVar[str] = "fliplr"

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the mirrored sample."""
        return _mirrored(sample, axis=1)


@dataclass(frozen=True, slots=True)
class FlipUpDown(Transform):
    """Swaps top and bottom."""

    func_name: ClassVar[str] = "flipud"

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the mirrored sample."""
        return _mirrored(sample, axis=0)


def _mirrored(sample: Sample, axis: int) -> Sample:
    """Mirror a sample along image axis 0 (rows) or 1 (columns)."""
    image = np.asarray(cv2.flip(sample.image, axis), np.uint8)
    row = 1 - axis
    matrix = np.eye(3)
    matrix[row, row], matrix[row, 2] = -1, image.shape[axis]
    return replace(
        sample,
        canvas=Canvas.of_image(image),
        boxes_xyxy=move_boxes(sample.boxes_xyxy, matrix),
        polygons=move_polygons(sample.polygons, matrix),
    )
