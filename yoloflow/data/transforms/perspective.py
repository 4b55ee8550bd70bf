"""The transform that rotates, scales, shears, shifts and tilts in one warp."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.geometry import (
    Matrix,
    boxes_around,
    clip_boxes,
    move_boxes,
    move_polygons,
    translation,
)
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Float32Array

MIN_SIDE_PX = 2.0
MAX_ASPECT = 20.0
MIN_AREA_RATIO = 0.10
MIN_AREA_RATIO_POLYGON = 0.01


@dataclass(frozen=True, slots=True)
class RandomPerspective(Transform):
    """Warps the image about its centre into the network input.

    The centre of the image, be it a mosaic's canvas of twice the size or a single image, falls on a random
    point near the centre of the output, so cutting a mosaic to size needs no step of its own. An object goes
    when 2 px or less of a side, 10 % or less of its area (1 % where a polygon tells its true extent) or a
    shape longer than 20 : 1 is left.

    Attributes:
        degrees: rotation, drawn from -degrees to degrees.
        translate: shift, as a share of the image size, drawn from -translate to translate.
        scale: zoom, drawn from 1 - scale to 1 + scale.
        shear: in degrees, drawn from -shear to shear for x and y.
        perspective: drawn from -perspective to perspective per pixel for x and y.
    """

    func_name: ClassVar[str] = "random_perspective"
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0

    def __post_init__(self) -> None:
        self.require_range("degrees", 0, 180)
        self.require_range("translate", 0, 1)
        self.require_range("scale", 0, 0.999)
        self.require_range("shear", 0, 89)
        self.require_range("perspective", 0, 0.001)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the warped sample, of the network input's size."""
        out_hw = context.output_hw
        matrix, zoom = self.draw_matrix(context.rng, sample.canvas.size_hw, out_hw)
        polygons = move_polygons(sample.polygons, matrix, out_hw)
        has_polygon = np.array([len(polygon) > 0 for polygon in sample.polygons], bool)
        boxes = clip_boxes(move_boxes(sample.boxes_xyxy, matrix), out_hw)
        boxes = boxes_around(polygons, boxes)
        # A polygon that lies wholly outside has no extent left, whatever its box's corners say.
        gone = has_polygon & np.array([len(polygon) == 0 for polygon in polygons], bool)
        keep = large_enough(sample.boxes_xyxy * zoom, boxes, has_polygon) & ~gone
        canvas = Canvas.of_image(sample.canvas.warp(matrix, out_hw))
        return replace(sample, canvas=canvas, boxes_xyxy=boxes, polygons=polygons).select(keep)

    def draw_matrix(
        self, rng: np.random.Generator, size_hw: tuple[int, int], out_hw: tuple[int, int]
    ) -> tuple[Matrix, float]:
        """Draw a (3, 3) matrix from an image of `size_hw` to one of `out_hw`; return it and its zoom."""
        height, width = size_hw
        warp = np.eye(3)
        warp[2, :2] = rng.uniform(-self.perspective, self.perspective, 2)
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        zoom = rng.uniform(1 - self.scale, 1 + self.scale)
        cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        slant = np.eye(3)
        slant[0, 1], slant[1, 0] = (
            math.tan(math.radians(rng.uniform(-self.shear, self.shear))) for _ in range(2)
        )
        shift = rng.uniform(0.5 - self.translate, 0.5 + self.translate, 2) * (out_hw[1], out_hw[0])
        matrix = translation(*shift) @ slant @ turn @ warp @ translation(-width / 2, -height / 2)
        return matrix, zoom


def large_enough(
    before_xyxy: Float32Array, after_xyxy: Float32Array, has_polygon: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which objects are still worth learning from.

    Args:
        before_xyxy: (G, 4) boxes before the warp, zoomed as the image was.
        after_xyxy: (G, 4) boxes after the warp, clipped to the image.
        has_polygon: (G,) whether the box comes from a polygon.

    Returns:
        (G,) true for those to keep.
    """
    before = before_xyxy[:, 2:] - before_xyxy[:, :2]
    after = after_xyxy[:, 2:] - after_xyxy[:, :2]
    area_ratio = after.prod(1) / np.maximum(before.prod(1), 1e-9)
    aspect = after.max(1, initial=0) / np.maximum(after.min(1, initial=np.inf), 1e-9)
    least = np.where(has_polygon, MIN_AREA_RATIO_POLYGON, MIN_AREA_RATIO)
    keep: NDArray[np.bool_] = (after > MIN_SIDE_PX).all(1) & (area_ratio > least) & (aspect < MAX_ASPECT)
    return keep
