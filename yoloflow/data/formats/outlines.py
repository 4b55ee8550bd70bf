"""COCO's segmentations: outlines of several parts as one, and run-length masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import cv2
import numpy as np
from hotcoco import mask as run_lengths
from numpy.typing import NDArray

from yoloflow.structures import Float32Array, RunLengthMask, Uint8Array

_LARGEST_MASK = 2**28
_MOST_DECIMALS = 12
_Float = TypeVar("_Float", bound=np.floating[Any])
NO_POLYGON = np.empty((0, 2), np.float32)


def join_parts(parts: Sequence[Float32Array]) -> Float32Array:
    """Joins parts to one outline that fills as they do: to each part and back along the same line."""
    if len(parts) == 1:
        return parts[0]
    anchor = parts[0][:1]
    pieces = [parts[0], anchor]
    for part in parts[1:]:
        pieces += [part, part[:1], anchor]
    return np.concatenate(pieces)


def split_parts(outline: NDArray[_Float], sizes: Sequence[int]) -> list[NDArray[_Float]]:
    """Returns the parts that `join_parts` joined, given how many points each has."""
    if len(sizes) < 2:
        return [outline]
    starts = [0, *(first + 1 + 2 * number for number, first in enumerate(accumulate(sizes[:-1])))]
    return [outline[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def segmentation_of(
    mask: RunLengthMask | None, points: NDArray[np.floating[Any]], sizes: Sequence[int]
) -> RunLengthMask | list[list[float]] | None:
    """Returns what COCO's json has as `segmentation` of an object; None if it has neither mask nor outline.

    Args:
        mask: its run lengths, where the source has them.
        points: (K, 2) its outline.
        sizes: points of each part, where there are several.
    """
    if mask is not None:
        return mask
    return [part.ravel().tolist() for part in split_parts(points, sizes)] if len(points) else None


def as_written(points: Float32Array) -> NDArray[np.float64]:
    """Returns the shortest decimals that read as these numbers: what the source had, up to seven digits."""
    exact = points.astype(np.float64)
    found, left = exact.copy(), np.ones(points.shape, np.bool_)
    for decimals in range(_MOST_DECIMALS):
        if not left.any():
            break
        rounded = exact[left].round(decimals)
        is_equal = rounded.astype(np.float32) == points[left]
        found[left] = np.where(is_equal, rounded, exact[left])
        left[left] = ~is_equal
    return found


def read_mask(value: Mapping[str, object], size_hw: tuple[int, int]) -> RunLengthMask | None:
    """Returns a run-length mask {size: [h, w], counts: text or list}; None if it is malformed.

    Args:
        value: what the file says.
        size_hw: of the image, 0 where it is not stated; a mask must have the same.
    """
    size, counts = value.get("size"), value.get("counts")
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ):
        return None
    if math.prod(size) > _LARGEST_MASK or (all(size_hw) and tuple(size) != size_hw):
        return None
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != math.prod(size):
            return None
    elif not isinstance(counts, str) or not counts.isascii():
        return None
    mask: RunLengthMask = {"size": size, "counts": counts}
    try:
        run_lengths.area(_with_bytes(mask))
    except (ValueError, OverflowError):
        return None
    return mask


def outline_of_mask(mask: RunLengthMask) -> Float32Array:
    """Returns (K, 2) the outline along the edges of the mask's pixels, see `outline_of_pixels`."""
    return outline_of_pixels(pixels_of_mask(mask))


def outline_of_pixels(pixels: Uint8Array) -> Float32Array:
    """Returns (K, 2) the outline along the edges of the pixels that are not 0, parts and holes joined.

    Holes go round the other way than the parts that they are in.

    Args:
        pixels: (H, W).
    """
    left, top, width, height = cv2.boundingRect(pixels)
    # On twice as many pixels the contour's points tell on which side of a pixel they lie.
    doubled = np.repeat(np.repeat(pixels[top : top + height, left : left + width], 2, 0), 2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((contour[:, 0] + 1) // 2) for contour in contours]
    if not rings:
        return NO_POLYGON
    return join_parts([(ring + (left, top)).astype(np.float32) for ring in sorted(rings, key=len)[::-1]])


def _corners(ring: NDArray[Any]) -> NDArray[Any]:
    """Returns the points of a ring where it turns."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    corners: NDArray[Any] = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return corners


def facing_alike(outline: Float32Array, sizes: Sequence[int]) -> Float32Array:
    """Returns an outline whose parts all go round the same way, so that where they overlap is inside.

    Args:
        outline: of `join_parts`.
        sizes: points of each part; fewer than two are one part.
    """
    if len(sizes) < 2:
        return outline
    parts = split_parts(outline, sizes)
    return join_parts([part if signed_area(part) >= 0 else part[::-1] for part in parts])


def signed_area(outline: NDArray[np.floating]) -> float:
    """Returns the area inside an outline (K, 2), negative where it goes anticlockwise (y points down)."""
    x, y = (outline - outline[:1]).astype(np.float64).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def pixels_of_mask(mask: RunLengthMask) -> Uint8Array:
    """Returns the (H, W) pixels of a mask, 1 inside."""
    return np.ascontiguousarray(run_lengths.decode(_with_bytes(mask)))


def rle_of(segmentation: Any, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Returns the run lengths, as pycocotools has them, of a valid segmentation in an image."""
    if isinstance(segmentation, Mapping):
        return _with_bytes(RunLengthMask(size=segmentation["size"], counts=segmentation["counts"]))
    return dict(run_lengths.merge(run_lengths.frPyObjects(segmentation, *size_hw)))


def pixels_of_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> Uint8Array:
    """Returns the (H, W) pixels of a valid segmentation in an image, 1 inside."""
    return np.ascontiguousarray(run_lengths.decode(rle_of(segmentation, size_hw)))


def mask_of_pixels(pixels: Uint8Array) -> RunLengthMask:
    """Returns the mask of (H, W) pixels that are not 0 inside."""
    encoded = run_lengths.encode(np.asfortranarray(pixels))
    counts = encoded["counts"]
    height, width = pixels.shape
    return {"size": [height, width], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _with_bytes(mask: RunLengthMask) -> dict[str, Any]:
    counts = mask["counts"]
    if isinstance(counts, list):
        height, width = mask["size"]
        return dict(run_lengths.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    return {"size": mask["size"], "counts": counts.encode()}
