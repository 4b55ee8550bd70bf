"""Boxes and polygons moved by the same matrix as the pixels they lie on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.canvas import Matrix, transform_points
from yoloflow.structures import Float32Array, Int64Array, Sample, Uint8Array

Objects = tuple[Float32Array, Int64Array, list[Float32Array]]


def with_picture(
    sample: Sample,
    image: Uint8Array,
    boxes_xyxy: Float32Array | None = None,
    classes: Int64Array | None = None,
    polygons: list[Float32Array] | None = None,
) -> Sample:
    """The sample with another image and, where given, other objects."""
    return Sample(
        image=image,
        boxes_xyxy=sample.boxes_xyxy if boxes_xyxy is None else boxes_xyxy,
        classes=sample.classes if classes is None else classes,
        polygons=sample.polygons if polygons is None else polygons,
        index=sample.index,
        original_size_hw=sample.original_size_hw,
        scale_xy=sample.scale_xy,
        pad_xy=sample.pad_xy,
    )


def join_objects(parts: list[Objects]) -> Objects:
    """The objects of several samples that lie in one picture."""
    return (
        np.concatenate([boxes for boxes, _, _ in parts]),
        np.concatenate([classes for _, classes, _ in parts]),
        [polygon for _, _, polygons in parts for polygon in polygons],
    )


def select_objects(keep: NDArray[np.bool_], objects: Objects) -> Objects:
    """The objects whose entry in `keep` (G,) is true."""
    boxes_xyxy, classes, polygons = objects
    if keep.all():
        return objects
    return (
        boxes_xyxy[keep],
        classes[keep],
        [polygon for polygon, kept in zip(polygons, keep, strict=True) if kept],
    )


def move_boxes(boxes_xyxy: Float32Array, matrix: Matrix) -> Float32Array:
    """(G, 4) boxes around the four corners of each, moved; the extents of what becomes a quadrangle."""
    if len(boxes_xyxy) == 0:
        return boxes_xyxy
    corners = transform_points(boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix).reshape(
        -1, 4, 2
    )
    return np.concatenate((corners.min(1), corners.max(1)), 1).astype(np.float32)


def move_polygons(
    polygons: list[Float32Array], matrix: Matrix, size_hw: tuple[int, int] | None = None
) -> list[Float32Array]:
    """Polygons moved by a matrix and, where a size is given, clipped to a picture of that size.

    All points move at once; only polygons that cross the border are clipped one by one.
    """
    lengths = [len(polygon) for polygon in polygons]
    if not any(lengths):
        return polygons
    points = transform_points(np.concatenate(polygons), matrix).astype(np.float32)
    moved = np.split(points, np.cumsum(lengths)[:-1])
    if size_hw is None:
        return moved
    height, width = size_hw
    outside = (points < 0).any(1) | (points > (width, height)).any(1)
    crossing = np.split(outside, np.cumsum(lengths)[:-1])
    return [
        clip_polygon(polygon, size_hw) if crosses.any() else polygon
        for polygon, crosses in zip(moved, crossing, strict=True)
    ]


def clip_polygon(polygon: Float32Array, size_hw: tuple[int, int]) -> Float32Array:
    """The part of a polygon inside a picture (Sutherland and Hodgman 1974), (K, 2); (0, 2) if none is."""
    height, width = size_hw
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        depth = (polygon[:, axis] - limit) * sign
        inside = depth >= 0
        if inside.all():
            continue
        if not inside.any():
            return np.zeros((0, 2), np.float32)
        following, following_depth = np.roll(polygon, -1, 0), np.roll(depth, -1)
        crosses = inside != np.roll(inside, -1)
        share = np.where(crosses, depth / np.where(crosses, depth - following_depth, 1), 0)[:, None]
        crossing = polygon + share.astype(np.float32) * (following - polygon)
        crossing[:, axis] = np.where(crosses, limit, crossing[:, axis])
        both = np.stack((polygon, crossing), 1)
        polygon = both[np.stack((inside, crosses), 1)]
    return polygon


def clip_boxes(boxes_xyxy: Float32Array, size_hw: tuple[int, int]) -> Float32Array:
    """(G, 4) boxes cut at the borders of a picture."""
    height, width = size_hw
    limits = np.array((width, height, width, height), np.float32)
    return np.clip(boxes_xyxy, 0, limits).astype(np.float32, copy=False)


def boxes_around(polygons: list[Float32Array], boxes_xyxy: Float32Array) -> Float32Array:
    """(G, 4) extents of the polygons; the given box for an object without one."""
    boxes = boxes_xyxy.copy()
    for row, polygon in enumerate(polygons):
        if len(polygon):
            boxes[row, :2], boxes[row, 2:] = polygon.min(0), polygon.max(0)
    return boxes


def overlap_of_second(first_xyxy: Float32Array, second_xyxy: Float32Array) -> NDArray[np.float32]:
    """(N, M) share of each second box (M, 4) that each first box (N, 4) covers."""
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    covered = np.clip(high - low, 0, None).prod(2)
    area = np.clip(second_xyxy[:, 2:] - second_xyxy[:, :2], 0, None).prod(1)
    share: NDArray[np.float32] = covered / np.maximum(area, 1e-9)
    return share
