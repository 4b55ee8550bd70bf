"""The transform that puts an image on grey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.canvas import FILL
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Uint8Array


@dataclass(frozen=True, slots=True)
class Letterbox(Transform):
    """Puts the image on grey of the network input's size, shrinking it where it is larger.

    Attributes:
        scaleup: also enlarge an image that is smaller.
        centre: leave equal borders; else all of the border is on the right and below (YOLOX's original).
    """

    func_name: ClassVar[str] = "letterbox"
    # Boxes always move with their pixels.
    ignored: ClassVar[Mapping[str, object]] = {"only_image": None, "xywhn2xyxy_": None}
    scaleup: bool = False
    centre: bool = True

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the sample in the input's size, with scale and border for the way back."""
        out_height, out_width = context.output_hw
        image = sample.image
        height, width = image.shape[:2]
        ratio = min(out_height / height, out_width / width)
        if not self.scaleup:
            ratio = min(ratio, 1.0)
        new_height, new_width = round(height * ratio), round(width * ratio)
        if (new_height, new_width) != (height, width):
            image = np.asarray(cv2.resize(image, (new_width, new_height)), np.uint8)
        # The odd pixel of border goes to the right and to the bottom.
        left, top = ((out_width - new_width) // 2, (out_height - new_height) // 2) if self.centre else (0, 0)
        boxed: Uint8Array = np.full((out_height, out_width, 3), FILL, np.uint8)
        boxed[top : top + new_height, left : left + new_width] = image
        scale_x, scale_y = new_width / width, new_height / height
        matrix = np.array([[scale_x, 0, left], [0, scale_y, top], [0, 0, 1.0]])
        return replace(
            sample.with_image(boxed, matrix),
            scale_xy=(sample.scale_xy[0] * scale_x, sample.scale_xy[1] * scale_y),
            pad_xy=(sample.pad_xy[0] * scale_x + left, sample.pad_xy[1] * scale_y + top),
        )
