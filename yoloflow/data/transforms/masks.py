"""The transform that draws outlines as masks, for networks that segment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Uint8Array, YoloflowError


@dataclass(frozen=True, slots=True)
class PolygonsToMasks(Transform):
    """Draws the masks of the objects; an object without a polygon fills its box.

    Attributes:
        mask_overlap: one image (H, W) whose pixels hold 1 + the number of the object that covers them, the
            smallest where several do, objects sorted by area, largest first; else a mask (G, H, W) of 0 and 1
            for each object.
        mask_ratio: the masks are this many times smaller than the image; half a covered pixel counts.
    """

    func_name: ClassVar[str] = "segment_poly2mask"
    must_be_last: ClassVar[bool] = True
    mask_overlap: bool = True
    mask_ratio: float = 4

    def __post_init__(self) -> None:
        if self.mask_ratio < 1 or self.mask_ratio != int(self.mask_ratio):
            raise YoloflowError(f"mask_ratio={self.mask_ratio:g}: must be a whole number from 1")

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the sample with masks."""
        height, width = (side // int(self.mask_ratio) for side in sample.image.shape[:2])
        masks = np.zeros((len(sample.classes), height, width), np.uint8)
        for number, (polygon, box) in enumerate(zip(sample.polygons, sample.boxes_xyxy, strict=True)):
            outline = polygon if len(polygon) else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
            masks[number] = self._draw(outline, sample.image.shape[:2], (height, width))
        if not self.mask_overlap:
            return replace(sample, masks=masks)
        order = np.argsort(-masks.sum((1, 2)), kind="stable")
        kind = np.uint8 if len(masks) < 256 else np.uint16
        joined: NDArray[np.uint8 | np.uint16] = np.zeros((height, width), kind)
        for number, mask in enumerate(masks[order], 1):
            joined[mask > 0] = number
        return replace(
            sample,
            boxes_xyxy=sample.boxes_xyxy[order],
            classes=sample.classes[order],
            polygons=[sample.polygons[number] for number in order],
            masks=joined,
        )

    @staticmethod
    def _draw(outline: NDArray[np.float32], full_hw: tuple[int, ...], size_hw: tuple[int, int]) -> Uint8Array:
        full = np.zeros(full_hw, np.uint8)
        # A pixel is covered where its centre is, and OpenCV counts from the centre of the first pixel.
        cv2.fillPoly(full, [np.rint(outline - 0.5).astype(np.int32)], 255)
        if full_hw != size_hw:
            full = np.asarray(cv2.resize(full, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        return (full >= 128).astype(np.uint8)
