"""Remarks on the outlines of a set as a whole: missing ones, tiny ones, those that cross themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yoloflow.data.formats.outlines import signed_area, split_parts
from yoloflow.structures import DatasetIndex, Float32Array, Problem

_CHUNK_EDGES = 256


def outline_remarks(
    index: DatasetIndex, img_size: int, mask_ratio: float | None, *, is_trained_on: bool, deep: bool
) -> list[Problem]:
    """Finds what deserves a look in the outlines of a set.

    Args:
        index: the data set.
        img_size: side of the network input in pixels.
        mask_ratio: its masks are so many times smaller; None where no masks are learnt.
        is_trained_on: whether it is a training set.
        deep: look for outlines that cross themselves, which takes a while.
    """
    found = {}
    trained = np.flatnonzero(~index.is_crowd)
    has_outline = np.diff(index.polygon_offsets)[trained] > 0
    missing = int((~has_outline).sum())
    if mask_ratio is not None and is_trained_on and len(trained) and not has_outline.any():
        found["nothing-to-segment"] = (
            f"none of its {len(trained)} objects has an outline or mask to learn from, only boxes: give "
            "labels with outlines (COCO's segmentation, YOLO polygons, PNG in SegmentationObject), or take a "
            "recipe of boxes (yolov8n, not yolov8n-seg)"
        )
    elif mask_ratio is not None and missing:
        found["box-without-outline"] = (
            f"{missing} of {len(trained)} objects ({missing / len(trained):.1%}) have no outline; their "
            "masks are their boxes"
        )
    if mask_ratio is not None and (tiny := _count_tiny(index, trained[has_outline], img_size, mask_ratio)):
        found["tiny-masks"] = (
            f"{tiny} of {len(trained)} objects cover less than a pixel of the masks, {mask_ratio:g} x "
            f"{mask_ratio:g} px at {img_size} px"
        )
    if deep and (crossing := list(_crossing(index, trained[has_outline]))):
        image = int(np.searchsorted(index.box_offsets, crossing[0], side="right")) - 1
        left, top, right, bottom = index.boxes_xyxy[crossing[0]]
        found["outline-crosses-itself"] = (
            f"{len(crossing)} of {int(has_outline.sum())} outlines cross themselves, first that of the "
            f"object from {left:g}, {top:g} to {right:g}, {bottom:g} px in {index.image_paths[image]}"
        )
    return [Problem(index.source, None, kind, "keep", detail) for kind, detail in found.items()]


def _parts(index: DatasetIndex, box: int) -> list[Float32Array]:
    outline = index.polygon_points[index.polygon_offsets[box] : index.polygon_offsets[box + 1]]
    return split_parts(outline, index.polygon_parts.get(box, []))


def _count_tiny(index: DatasetIndex, boxes: np.ndarray, img_size: int, mask_ratio: float) -> int:
    """Returns how many objects cover less than a pixel of the masks."""
    images = np.searchsorted(index.box_offsets, boxes, side="right") - 1
    least = (mask_ratio * index.sizes_hw[images].max(1) / img_size) ** 2
    sides = index.boxes_xyxy[boxes, 2:] - index.boxes_xyxy[boxes, :2]
    # An outline takes up a part of its box; those of large boxes need no closer look.
    count = 0
    for box, area in zip(boxes[sides.prod(1) < 8 * least], least[sides.prod(1) < 8 * least], strict=True):
        count += sum(abs(signed_area(part)) for part in _parts(index, int(box))) < area
    return count


def _crossing(index: DatasetIndex, boxes: np.ndarray) -> Iterator[int]:
    """Yields the objects whose outlines cross themselves; those of run-length masks never do."""
    for box in boxes.tolist():
        if box not in index.masks and any(crosses_itself(part) for part in _parts(index, box)):
            yield box


def crosses_itself(outline: Float32Array) -> bool:
    """Returns whether two edges of an outline (K, 2) cross between their ends; to touch is not to cross."""
    start = outline.astype(np.float64)
    way = np.roll(start, -1, 0) - start
    following = (np.arange(len(start)) + 1) % len(start)
    for first in range(0, len(start), _CHUNK_EDGES):
        some = slice(first, first + _CHUNK_EDGES)
        sides = _sides(start[some, None], way[some, None], start)
        above, below = sides > 0, sides < 0
        one, other = np.nonzero((above & below[:, following]) | (below & above[:, following]))
        one += first
        begins = _sides(start[other], way[other], start[one])
        ends = _sides(start[other], way[other], start[following[one]])
        if (begins * ends < 0).any():
            return True
    return False


def _sides(start: np.ndarray, way: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns on which side of edges points lie: below 0, above, or 0 on the line."""
    x, y = points[..., 0] - start[..., 0], points[..., 1] - start[..., 1]
    return np.asarray(way[..., 0] * y - way[..., 1] * x)
