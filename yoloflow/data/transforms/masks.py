"""The transform that draws outlines as masks, for networks that segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.data.transforms.geometry import move_polygons
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.settings import Row
from yoloflow.structures import YoloflowError


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
        scale = np.diag([width / sample.image.shape[1], height / sample.image.shape[0], 1.0])
        outlines = [
            polygon if len(polygon) else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
            for polygon, box in zip(sample.polygons, sample.boxes_xyxy, strict=True)
        ]
        filled = fill_outlines(move_polygons(outlines, scale, (height, width)))
        if not self.mask_overlap:
            masks = np.zeros((len(filled), height, width), np.uint8)
            for mask, one in zip(masks, filled, strict=True):
                mask[one.window] = one.pixels
            return replace(sample, masks=masks)
        order = np.argsort([-np.count_nonzero(one.pixels) for one in filled], kind="stable")
        kind = np.uint8 if len(filled) < 256 else np.uint16
        joined: NDArray[np.uint8 | np.uint16] = np.zeros((height, width), kind)
        for number, row in enumerate(order.tolist(), 1):
            joined[filled[row].window][filled[row].pixels] = number
        return replace(
            sample,
            boxes_xyxy=sample.boxes_xyxy[order],
            classes=sample.classes[order],
            polygons=[sample.polygons[row] for row in order],
            masks=joined,
        )


def mask_ratio_of(stages: Sequence[Sequence[Row]]) -> float | None:
    """Return how many times smaller than the images the drawn masks are; None where no stage draws any.

    Args:
        stages: the rows of each stage.
    """
    rows = [row for rows in stages for row in rows if row.get("func_name") == PolygonsToMasks.func_name]
    return float(rows[0].get("mask_ratio", PolygonsToMasks().mask_ratio)) if rows else None
