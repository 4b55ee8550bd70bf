"""The sample that passes through the transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.geometry import Matrix, move_boxes, move_polygons
from yoloflow.structures import Float32Array, Int64Array, Uint8Array


@dataclass(slots=True)
class Sample:
    """One image with its objects.

    Attributes:
        canvas: the image, or the images it is composed of; see `image`.
        boxes_xyxy: (G, 4) float32 corner boxes in pixels of the image.
        classes: (G,) int64 class numbers, 0-based.
        polygons: G arrays (K, 2) float32 in pixels; (0, 2) for an object that has no polygon.
        index: position of the image in its data set.
        original_size_hw: height and width of the image on disk (after its EXIF rotation).
        scale_xy: factor from original pixels to pixels of the image, x and y (evaluation only).
        pad_xy: left and top border in pixels of the image (evaluation only).
        masks: of the objects, where the last transform drew them, see `PolygonsToMasks`.
    """

    canvas: Canvas
    boxes_xyxy: Float32Array
    classes: Int64Array
    polygons: list[Float32Array]
    index: int
    original_size_hw: tuple[int, int]
    scale_xy: tuple[float, float] = (1.0, 1.0)
    pad_xy: tuple[float, float] = (0.0, 0.0)
    masks: NDArray[np.uint8 | np.uint16] | None = None

    @property
    def image(self) -> Uint8Array:
        """(H, W, 3) uint8, BGR as OpenCV decodes it; a composed image is drawn on first use."""
        return self.canvas.image

    def with_image(self, image: Uint8Array, matrix: Matrix | None = None) -> Sample:
        """Return the sample with another image; the (3, 3) matrix that moved pixels moves objects."""
        moved = replace(self, canvas=Canvas.of_image(image))
        if matrix is not None:
            moved.boxes_xyxy = move_boxes(self.boxes_xyxy, matrix)
            moved.polygons = move_polygons(self.polygons, matrix)
        return moved

    def select(self, keep: NDArray[np.bool_]) -> Sample:
        """Return the sample with the objects whose entry in `keep` (G,) is true."""
        if keep.all():
            return self
        polygons = [polygon for polygon, kept in zip(self.polygons, keep, strict=True) if kept]
        return replace(self, boxes_xyxy=self.boxes_xyxy[keep], classes=self.classes[keep], polygons=polygons)


def join_samples(samples: Sequence[Sample], canvas: Canvas) -> Sample:
    """Return the first sample on another canvas, with the objects of all."""
    return replace(
        samples[0],
        canvas=canvas,
        boxes_xyxy=np.concatenate([sample.boxes_xyxy for sample in samples]),
        classes=np.concatenate([sample.classes for sample in samples]),
        polygons=[polygon for sample in samples for polygon in sample.polygons],
    )
