"""Masks of detections at the size of the original image, as COCO's run lengths.

The mask of a detection is where the sum of the prototypes, each times the detection's coefficient for it, is
above 0, inside its box (YOLACT, Bolya et al. 2019, section 3). The sum is interpolated bilinearly from the
prototypes' cells to the pixels of the original image before it is cut, so that edges are not of cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hotcoco import mask as run_lengths
from numpy.typing import NDArray
from torch import Tensor

from yoloflow.structures import Float32Array, Int64Array, RunLengthMask

Float64Array = NDArray[np.float64]

_NUMBERS_AT_ONCE = 1 << 20
"""Numbers of the sums in an image's columns that are in memory together."""


def masks_of(
    prototypes: Tensor,
    coefficients: Tensor,
    boxes_xyxy: Tensor,
    *,
    input_hw: tuple[int, int],
    scale_xy: Tensor,
    pad_xy: Tensor,
    original_size_hw: Tensor,
) -> list[RunLengthMask]:
    """Returns the mask of each detection in an image, at the image's own size; counts are compressed.

    A pixel is in a box if its centre is.

    Args:
        prototypes: (K, h, w) of the image.
        coefficients: (N, K), of each detection.
        boxes_xyxy: (N, 4) corners in pixels of the original image.
        input_hw: height and width of the network's input.
        scale_xy: (2,) factor from original to input pixels, x and y.
        pad_xy: (2,) left and top border in input pixels.
        original_size_hw: (2,) height and width of the original image.
    """
    if not len(boxes_xyxy):
        return []
    height, width = (int(side) for side in original_size_hw.tolist())
    # Columns first, as COCO counts pixels.
    cells = prototypes.float().permute(2, 1, 0).contiguous().cpu().numpy()
    x = _Axis.of(width, float(scale_xy[0]), float(pad_xy[0]), len(cells), input_hw[1])
    y = _Axis.of(height, float(scale_xy[1]), float(pad_xy[1]), cells.shape[1], input_hw[0])
    rows = coefficients.float().cpu().numpy()
    limits = np.array([width, height, width, height])
    windows: Int64Array = np.ceil(boxes_xyxy.cpu().numpy() - 0.5).clip(0, limits).astype(np.int64)
    largest = (windows[:, 2] - windows[:, 0]).clip(1) * (cells.shape[1] + 2)
    group = (largest.cumsum() - largest) // _NUMBERS_AT_ONCE
    weights = x.weights()
    masks: list[RunLengthMask] = []
    for members in np.split(np.arange(len(windows)), np.flatnonzero(np.diff(group)) + 1):
        borders = _borders(cells, rows[members], weights, (x, y), windows[members])
        masks += _encoded(*borders, len(members), (height, width))
    return masks


class _Axis(NamedTuple):
    """How the pixels along a side of the image lie among the cells of the prototypes.

    Attributes:
        num_pixels: P, of the side.
        num_cells: c, of the side.
        scale: cells in a pixel.
        offset: place of pixel 0, where the centre of cell 0 is at 0.
    """

    num_pixels: int
    num_cells: int
    scale: float
    offset: float

    @classmethod
    def of(cls, num_pixels: int, scale: float, pad: float, num_cells: int, side: int) -> _Axis:
        """Returns the axis of pixels that lie in an input of `side` pixels, `scale` of these for each."""
        cells = num_cells / side
        return cls(num_pixels, num_cells, scale * cells, (0.5 * scale + pad) * cells - 0.5)

    def place(self, pixels: Int64Array) -> Float64Array:
        """Returns where pixels lie; none is beyond the centres of the outermost cells."""
        return (self.scale * pixels + self.offset).clip(0, self.num_cells - 1)

    def cells(self, start: Int64Array, stop: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Returns the first cell that the pixels from `start` to before `stop` need, and how many."""
        first = self.place(start).astype(np.int64)
        last = np.minimum(self.place(stop - 1).astype(np.int64) + 1, self.num_cells - 1)
        return first, last - first + 1

    def weights(self) -> Float32Array:
        """Returns (P, c) the share of each cell in each pixel."""
        pixels = np.arange(self.num_pixels)
        place = self.place(pixels)
        first = place.astype(np.int64)
        weights = np.zeros((self.num_pixels, self.num_cells), np.float32)
        weights[pixels, np.minimum(first + 1, self.num_cells - 1)] = place - first
        weights[pixels, first] = 1 - (place - first)
        return weights


def _borders(
    cells: Float32Array,
    coefficients: Float32Array,
    weights: Float32Array,
    axes: tuple[_Axis, _Axis],
    windows: Int64Array,
) -> tuple[Int64Array, Int64Array]:
    """Returns where masks begin and end, in turn.

    Along a column the sum is linear from cell to cell, so that its zeros tell where the mask's pixels are.

    Args:
        cells: (w, h, K) prototypes.
        coefficients: (N, K).
        weights: (W, w) share of the cells in the image's columns.
        axes: of the columns and of the rows.
        windows: (N, 4) x1 y1 x2 y2, the pixels from the first to before the last.

    Returns:
        The mask of each border, and its pixel, counted column by column in the image; both rise.
    """
    x, y = axes
    x1, y1, x2, y2 = windows.T
    (left, across), (top, number) = x.cells(x1, x2), y.cells(y1, y2)
    # A cell outside stands before and after those of a column: there the column begins and ends.
    sizes = np.where(y1 < y2, (x2 - x1).clip(0), 0) * (number + 2)
    ends = sizes.cumsum()
    logits = np.full(ends[-1], -1, np.float32)
    for i in np.flatnonzero(sizes).tolist():
        part = slice(left[i], left[i] + across[i])
        sums = cells[part, top[i] : top[i] + number[i]] @ coefficients[i]
        columns = logits[ends[i] - sizes[i] : ends[i]].reshape(-1, number[i] + 2)
        np.matmul(weights[x1[i] : x2[i], part], sums, out=columns[:, 1:-1])
    is_inside = logits > 0
    places = np.flatnonzero(is_inside[1:] != is_inside[:-1]) + 1
    mask = np.searchsorted(ends, places, side="right")
    column, cell = np.divmod(places - (ends - sizes)[mask], number[mask] + 2)
    low = logits[places - 1].astype(np.float64)
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(low / (low - logits[places]))
    zero = (top[mask] + cell - 2 + share - y.offset) / y.scale
    row = np.where(low > 0, np.ceil(zero), np.floor(zero) + 1)
    row = np.where(cell == 1, y1[mask], np.where(cell > number[mask], y2[mask], row))
    row = row.astype(np.int64).clip(y1[mask], y2[mask])
    pixel = (column + x1[mask]) * y.num_pixels + row
    # Borders in one place cancel out: there is nothing between them, or a column goes on in the next.
    is_first = np.ones(len(pixel) + 1, np.bool_)
    is_first[1:-1] = (pixel[1:] != pixel[:-1]) | (mask[1:] != mask[:-1])
    first = np.flatnonzero(is_first)
    kept = first[:-1][np.diff(first) % 2 == 1]
    return mask[kept], pixel[kept]


def _encoded(
    mask: Int64Array, pixel: Int64Array, number: int, size_hw: tuple[int, int]
) -> list[RunLengthMask]:
    """Returns the masks of the borders that `_borders` gives."""
    height, width = size = list(size_hw)  # the one list of all: a data set has a million masks
    # A mask is a 0, its borders and the number of the image's pixels.
    ends = np.searchsorted(mask, np.arange(number), side="right") + 2 * np.arange(1, number + 1)
    places = np.zeros(len(pixel) + 2 * number, np.int64)
    places[np.arange(len(pixel)) + 2 * mask + 1] = pixel
    places[ends - 1] = height * width
    runs, start, uncompressed = np.diff(places).tolist(), 0, []
    for end in ends.tolist():
        counts = runs[start : end - 1]
        if len(counts) > 1 and counts[-1] == 0:
            del counts[-1]
        uncompressed.append({"size": size, "counts": counts})
        start = end
    found = run_lengths.frPyObjects(uncompressed, height, width)
    return [{"size": size, "counts": mask["counts"].decode()} for mask in found]
