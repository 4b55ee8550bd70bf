"""Outlines and masks of ground truth, as hotcoco compares them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.coco_entries import read_segmentation, whole
from yoloflow.structures import Problem, YoloflowError

Float64Array = NDArray[np.float64]


def read_outlines(
    name: str, images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> tuple[list[Any], list[Problem]]:
    """Returns the segmentation of each annotation, None where it has none or a malformed one."""
    sizes_hw = {image["id"]: stated_size(image) for image in images}
    found, problems = [], []
    for position, entry in enumerate(annotations):
        value = entry.get("segmentation") or None
        (parts, _), fault = read_segmentation(value, sizes_hw[entry["image_id"]])
        if fault:
            detail = f"annotations[{position}]: its segmentation {fault}"
            problems.append(Problem(name, None, "polygon-malformed", "keep", detail))
            value = [part.ravel().tolist() for part in parts] or None
        found.append(value)
    return found, problems


def stated_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the height and width that an entry states, 0 for what it does not state."""
    height, width = whole(image.get("height")), whole(image.get("width"))
    return max(height or 0, 0), max(width or 0, 0)


def box_outlines(boxes_xywh: Float64Array) -> list[list[float]]:
    """Returns the outline of each box, as pycocotools makes it of a detection without a mask."""
    x, y, w, h = boxes_xywh.T
    corners: list[list[float]] = np.stack((x, y, x, y + h, x + w, y + h, x + w, y), 1).tolist()
    return corners


def with_sizes(
    images: Sequence[Mapping[str, Any]], rows: Float64Array, outlines: Sequence[Any], source: str
) -> list[dict[str, Any]]:
    """Returns the entries of the images with the sizes that hotcoco fills outlines in."""
    is_drawn = [isinstance(outline, list) for outline in outlines]
    need_size = set(rows[is_drawn, 0].tolist())
    entries = []
    for image in images:
        number, (height, width) = int(image["id"]), stated_size(image)
        if not (height and width) and number in need_size:
            raise YoloflowError(
                f"{source}: image {image.get('file_name', number)} (id {number}) states no height and width, "
                "in which its masks could be drawn; add both to its entry"
            )
        entries.append({"id": number, "height": height, "width": width})
    return entries
