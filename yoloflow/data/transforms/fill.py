"""The pixels that outlines cover by half or more, of many outlines at once.

The covered area of a pixel is exact: each edge adds its signed area to the pixels that it crosses, and a
running sum along the rows adds the inside, as programs draw letters. Hence the seams between the parts of an
outline, of no width, leave no trace, and a hole whose border goes the other way round is a hole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.annotations import offsets_of
from yoloflow.structures import Float32Array, Int64Array

Float64Array = NDArray[np.float64]

# Exactly half a pixel counts, in spite of rounding.
_HALF = 0.5 - 1e-6
# As many as the processor's cache holds.
_GROUP_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True)
class Filled:
    """An outline's pixels in a window of the image.

    Attributes:
        top: first row of the window; left: its first column.
        pixels: (h, w) bool.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the window."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def fill_outlines(outlines: Sequence[Float32Array]) -> list[Filled]:
    """Fill outlines (K, 2), which lie inside the image; one without points has no pixels."""
    filled = [Filled(0, 0, np.zeros((0, 0), np.bool_))] * len(outlines)
    rows = [row for row, outline in enumerate(outlines) if len(outline)]
    if not rows:
        return filled
    points = np.concatenate([outlines[row] for row in rows]).astype(np.float64)
    offsets = offsets_of([len(outlines[row]) for row in rows])
    low = np.floor(np.minimum.reduceat(points, offsets[:-1]))
    sides_wh = np.maximum(np.ceil(np.maximum.reduceat(points, offsets[:-1])) - low, 1).astype(np.int64)
    groups = np.cumsum(sides_wh.prod(1)) // _GROUP_PIXELS
    borders = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(rows)]
    for first, last in pairwise(borders):
        part = points[offsets[first] : offsets[last]]
        begins = offsets[first : last + 1] - offsets[first]
        filled_part = _fill_windows(part, begins, low[first:last], sides_wh[first:last])
        for row, one in zip(rows[first:last], filled_part, strict=True):
            filled[row] = one
    return filled


def _fill_windows(
    points: Float64Array, offsets: Int64Array, low_xy: Float64Array, sides_wh: Int64Array
) -> Iterator[Filled]:
    """Fill N outlines, each in a window with its left top corner (N, 2) and its width and height (N, 2).

    Their points (P, 2) begin at `offsets` (N + 1,).
    """
    lengths = np.diff(offsets)
    # A column more on the right takes what reaches to the edge; with it each row's sum is 0.
    pitches = sides_wh[:, 0] + 1
    cells = offsets_of(pitches * sides_wh[:, 1])
    points = points - np.repeat(low_xy, lengths, axis=0)
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    slant = np.flatnonzero(points[:, 1] != points[following, 1])
    of_edge = np.repeat(np.arange(len(lengths)), lengths)[slant]
    added = _signed_areas(points[slant], points[following[slant]], cells[of_edge], pitches[of_edge])
    inside = np.abs(np.cumsum(np.bincount(*added, int(cells[-1]) + 1))) >= _HALF
    for number, (left, top) in enumerate(low_xy.astype(int).tolist()):
        pixels = inside[cells[number] : cells[number + 1]].reshape(-1, pitches[number])[:, :-1]
        yield Filled(top, left, pixels)


def _signed_areas(
    start: Float64Array, end: Float64Array, offsets: Int64Array, pitches: Int64Array
) -> tuple[Int64Array, Float64Array]:
    """Return cells, and what each edge adds to them, so that a running sum gives the covered areas.

    Args:
        start: (E, 2) first points of edges that are not level, in pixels of their windows.
        end: (E, 2) their last points.
        offsets: (E,) first cell of each edge's window.
        pitches: (E,) cells in a row of it.
    """
    sign = np.where(end[:, 1] > start[:, 1], 1.0, -1.0)
    upper, lower = np.where(sign[:, None] > 0, start, end), np.where(sign[:, None] > 0, end, start)
    slope = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    edge, row = _steps(upper[:, 1], lower[:, 1])
    upper, lower, slope = upper[edge], lower[edge], slope[edge]
    top, bottom = np.maximum(row, upper[:, 1]), np.minimum(row + 1, lower[:, 1])
    # Where the edge enters and leaves the row; rounding must not lead beyond its ends.
    first = np.clip(upper[:, 0] + (top - upper[:, 1]) * slope, *_sorted(upper[:, 0], lower[:, 0]))
    last = np.clip(upper[:, 0] + (bottom - upper[:, 1]) * slope, *_sorted(upper[:, 0], lower[:, 0]))
    left, right = _sorted(first, last)
    height = sign[edge] * (bottom - top)
    row_start = offsets[edge] + row.astype(np.int64) * pitches[edge]
    piece, column = _steps(left, right)
    left, right = left[piece], right[piece]
    begin, stop = np.maximum(column, left), np.minimum(column + 1, right)
    width = right - left
    share = np.divide(stop - begin, width, out=np.ones_like(width), where=width > 0)
    area = height[piece] * share
    beyond = area * ((begin + stop) / 2 - column)
    cell = row_start[piece] + column.astype(np.int64)
    return np.concatenate((cell, cell + 1)), np.concatenate((area - beyond, beyond))


def _sorted(first: Float64Array, second: Float64Array) -> tuple[Float64Array, Float64Array]:
    return np.minimum(first, second), np.maximum(first, second)


def _steps(low: Float64Array, high: Float64Array) -> tuple[Int64Array, Float64Array]:
    """Return the interval and the whole number of each unit cell that an interval touches."""
    first = np.floor(low)
    counts = np.maximum(np.ceil(high) - first, 1).astype(np.int64)
    owner = np.repeat(np.arange(len(low)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, first[owner] + within
