"""Transforms that mirror."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext


@dataclass(frozen=True, slots=True)
class FlipLeftRight(Transform):
    """Swaps left and right."""

    func_name: ClassVar[str] = "fliplr"
    axis: ClassVar[int] = 1

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the mirrored sample."""
        row, matrix = 1 - self.axis, np.eye(3)
        matrix[row, row], matrix[row, 2] = -1, sample.canvas.size_hw[self.axis]
        return sample.with_image(np.asarray(cv2.flip(sample.image, self.axis), np.uint8), matrix)


@dataclass(frozen=True, slots=True)
class FlipUpDown(FlipLeftRight):
    """Swaps top and bottom."""

    func_name: ClassVar[str] = "flipud"
    axis: ClassVar[int] = 0
