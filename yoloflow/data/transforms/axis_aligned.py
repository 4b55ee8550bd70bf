"""Draws an image that is only scaled and shifted: a resize of a crop, four times as fast as a warp."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np

from yoloflow.structures import Uint8Array

# A resize can start only where a source pixel and an output pixel begin at the same point: the number of
# source pixels to look at, and the tolerance in output pixels. Without such a point the image is warped.
_SEARCH = 32
_TOLERANCE = 1 / 16

Region = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """The map along one axis: output coordinate = scale * source coordinate + shift.

    Attributes:
        length: of the source in pixels; limit: of the output.
    """

    scale: float
    shift: float
    length: int
    limit: int

    def covered(self) -> tuple[int, int]:
        """Return first and last (exclusive) output pixel whose centre the source covers."""
        first = math.ceil(self.shift - 0.5)
        last = math.ceil(self.scale * self.length + self.shift - 0.5)
        return max(first, 0), min(last, self.limit)

    def aligned(self, first: int, last: int) -> tuple[int, int] | None:
        """Return source and output pixel near `first` that begin at the same point, before it if possible."""
        near = math.floor((first - self.shift) / self.scale)
        # One earlier, because the first line of a resize lacks its neighbour.
        before = range(near - (near > 0), max(near - _SEARCH, -1), -1)
        inside = range(max(near, 0), min(near + _SEARCH, self.length))
        for source in chain(before, inside):
            position = self.scale * source + self.shift
            target = round(position)
            if abs(position - target) < _TOLERANCE:
                # Too near to the end there may be no output pixel left to resize to.
                return (source, target) if target + 1 + self.scale < last else None
        return None

    def source_end(self, last: int) -> int:
        """Return the source pixel up to which the output pixels before `last` need the source."""
        return min(self.length, math.ceil((last - self.shift) / self.scale) + 1)


def draw_axis_aligned(out: Uint8Array, image: Uint8Array, x: Axis, y: Axis) -> None:
    """Draw `image` into `out`, bilinear, placed within 1/16 of an output pixel.

    Args:
        out: (H, W, 3), written in place.
        image: (h, w, 3).
        x: how columns go to columns.
        y: how rows go to rows.
    """
    (left, right), (top, bottom) = x.covered(), y.covered()
    if left >= right or top >= bottom:
        return
    across, down = x.aligned(left, right), y.aligned(top, bottom)
    if across is None or down is None:
        _warp_region(out, image, x, y, (left, top, right, bottom))
        return
    inner = image[down[0] : y.source_end(bottom), across[0] : x.source_end(right)]
    if x.scale != 1 or y.scale != 1:
        # Told no size, OpenCV keeps the exact scale; told one, it would take the ratio of two whole sizes.
        inner = np.asarray(cv2.resize(inner, None, fx=x.scale, fy=y.scale), np.uint8)
    x1, y1 = max(across[1], left), max(down[1], top)
    x2, y2 = min(across[1] + inner.shape[1], right), min(down[1] + inner.shape[0], bottom)
    out[y1:y2, x1:x2] = inner[y1 - down[1] : y2 - down[1], x1 - across[1] : x2 - across[1]]
    # What lies before the aligned start, at the image's own edge, and a last line lost to rounding.
    frame = ((left, top, right, y1), (left, y2, right, bottom), (left, y1, x1, y2), (x2, y1, right, y2))
    for region in frame:
        if region[0] < region[2] and region[1] < region[3]:
            _warp_region(out, image, x, y, region)


def _warp_region(out: Uint8Array, image: Uint8Array, x: Axis, y: Axis, region: Region) -> None:
    left, top, right, bottom = region
    # OpenCV's coordinates name pixel centres by whole numbers, ours are half a pixel further.
    matrix = np.array(
        [
            [x.scale, 0.0, x.shift + 0.5 * x.scale - 0.5 - left],
            [0.0, y.scale, y.shift + 0.5 * y.scale - 0.5 - top],
        ]
    )
    cv2.warpAffine(
        image,
        matrix,
        (right - left, bottom - top),
        dst=out[top:bottom, left:right],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
