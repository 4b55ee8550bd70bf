"""Boxes and polygons, moved by the same matrix as the pixels they lie on.

Coordinates are continuous: pixel i of a row covers i to i + 1, so that boxes and pixels obey one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.structures import Float32Array

Matrix = NDArray[np.float64]

# Least distance of a point before the camera of a perspective, that of the image's centre being 1.
_NEAREST = 0.01


def translation(x: float, y: float) -> Matrix:
    """Return the (3, 3) matrix that moves points by x and y pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def transform_points(points: NDArray[np.floating], matrix: Matrix) -> NDArray[np.float64]:
    """Move (N, 2) points by a (3, 3) matrix, with the perspective division where it has one."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] or matrix[2, 1]:
        moved = moved / _depth(points, matrix)[:, None]
    return moved


def _depth(points: NDArray[np.floating], matrix: Matrix) -> NDArray[np.float64]:
    """Return the distances (N,) of points before the camera of a perspective."""
    depth: NDArray[np.float64] = points @ matrix[2, :2] + matrix[2, 2]
    return depth


def move_boxes(boxes_xyxy: Float32Array, matrix: Matrix) -> Float32Array:
    """Move (G, 4) boxes: the extents of their four corners, which may become any quadrangle."""
    if len(boxes_xyxy) == 0:
        return boxes_xyxy
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    if _is_behind(corners.reshape(-1, 2), matrix).any():
        return boxes_around(move_polygons(list(corners), matrix), np.zeros_like(boxes_xyxy))
    moved = transform_points(corners.reshape(-1, 2), matrix).reshape(-1, 4, 2)
    return np.concatenate((moved.min(1), moved.max(1)), 1).astype(np.float32)


def move_polygons(
    polygons: list[Float32Array], matrix: Matrix, size_hw: tuple[int, int] | None = None
) -> list[Float32Array]:
    """Move polygons by a matrix and, where a size is given, clip them to an image of that size.

    All points move at once; only polygons that cross the border are clipped one by one.
    """
    lengths = [len(polygon) for polygon in polygons]
    if not any(lengths):
        return polygons
    points = np.concatenate(polygons)
    behind = _is_behind(points, matrix)
    if behind.any():
        # Of those, the part that the perspective can show; (0, 2) where there is none.
        polygons = [
            _cut(polygon, _depth(polygon, matrix) - _NEAREST) if is_behind.any() else polygon
            for polygon, is_behind in zip(polygons, _split(behind, lengths), strict=True)
        ]
        lengths, points = [len(polygon) for polygon in polygons], np.concatenate(polygons)
    points = transform_points(points, matrix).astype(np.float32)
    moved = _split(points, lengths)
    if size_hw is None:
        return moved
    limits, extents = np.array(size_hw[::-1], np.float32), _extents(points, lengths)
    crosses = (extents[:, :2] < 0).any(1) | (extents[:, 2:] > limits).any(1)
    is_gone = np.asarray((extents[:, 2:] < 0).any(1) | (extents[:, :2] > limits).any(1))
    for row in np.flatnonzero(crosses).tolist():
        moved[row] = moved[row][:0] if is_gone[row] else clip_polygon(moved[row], size_hw)
    return moved


def _split(values: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
    """Return the pieces of these lengths."""
    borders = list(accumulate(lengths, initial=0))
    return [values[start:stop] for start, stop in pairwise(borders)]


def _extents(points: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
    """Return (N, 4) corner boxes of polygons whose points (P, 2) stand in a row; 0 for one without points."""
    counts = np.array(lengths)
    starts, rows = (np.cumsum(counts) - counts)[counts > 0], np.flatnonzero(counts)
    extents = np.zeros((len(counts), 4), points.dtype)
    extents[rows, :2] = np.minimum.reduceat(points, starts)
    extents[rows, 2:] = np.maximum.reduceat(points, starts)
    return extents


def _is_behind(points: NDArray[np.floating], matrix: Matrix) -> NDArray[np.bool_]:
    """Tell which (N, 2) points a perspective moves to infinity or beyond, whence they come back mirrored."""
    if not (matrix[2, 0] or matrix[2, 1]):
        return np.zeros(len(points), np.bool_)
    return np.asarray(_depth(points, matrix) < _NEAREST)


def clip_polygon(polygon: Float32Array, size_hw: tuple[int, int]) -> Float32Array:
    """Clip a polygon to an image (Sutherland and Hodgman 1974): (K, 2), or (0, 2) where it lies outside."""
    height, width = size_hw
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        polygon = _cut(polygon, (polygon[:, axis] - limit) * sign, (axis, limit))
    return polygon


def _cut(
    polygon: Float32Array, depth: NDArray[np.floating], border: tuple[int, float] | None = None
) -> Float32Array:
    """Cut off the part of a polygon where a linear function of its points is below 0.

    Args:
        polygon: (K, 2) points.
        depth: (K,) the function at the points.
        border: axis and coordinate that all points on the cut have.
    """
    inside = depth >= 0
    if inside.all():
        return polygon
    if not inside.any():
        return np.zeros((0, 2), np.float32)
    edges = np.flatnonzero(inside != np.append(inside[1:], inside[0]))
    ends = (edges + 1) % len(polygon)
    share = (depth[edges] / (depth[edges] - depth[ends])).astype(np.float32)[:, None]
    crossing = polygon[edges] + share * (polygon[ends] - polygon[edges])
    if border is not None:
        crossing[:, border[0]] = border[1]
    kept = np.flatnonzero(inside)
    order = np.argsort(np.concatenate((2 * kept, 2 * edges + 1)))
    cut: Float32Array = np.concatenate((polygon[kept], crossing))[order]
    return cut


def clip_boxes(boxes_xyxy: Float32Array, size_hw: tuple[int, int]) -> Float32Array:
    """Clip (G, 4) boxes to an image."""
    height, width = size_hw
    limits = np.array((width, height, width, height), np.float32)
    return np.clip(boxes_xyxy, 0, limits).astype(np.float32, copy=False)


def boxes_around(polygons: list[Float32Array], boxes_xyxy: Float32Array) -> Float32Array:
    """Return the (G, 4) extents of the polygons; the given box for an object without one."""
    lengths = [len(polygon) for polygon in polygons]
    if not any(lengths):
        return boxes_xyxy.copy()
    extents = _extents(np.concatenate(polygons), lengths)
    around: Float32Array = np.where((np.array(lengths) > 0)[:, None], extents, boxes_xyxy).astype(np.float32)
    return around


def covered_share(first_xyxy: Float32Array, second_xyxy: Float32Array) -> NDArray[np.float32]:
    """Return the (N, M) share of each second box (M, 4) that each first box (N, 4) covers."""
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    covered = np.clip(high - low, 0, None).prod(2)
    area = np.clip(second_xyxy[:, 2:] - second_xyxy[:, :2], 0, None).prod(1)
    share: NDArray[np.float32] = covered / np.maximum(area, 1e-9)
    return share
