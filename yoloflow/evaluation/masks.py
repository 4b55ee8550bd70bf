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
    cells = np.ascontiguousarray(prototypes.float().cpu().numpy().transpose(2, 1, 0))
    x = _Axis.of(width, float(scale_xy[0]), float(pad_xy[0]), len(cells), input_hw[1])
    y = _Axis.of(height, float(scale_xy[1]), float(pad_xy[1]), cells.shape[1], input_hw[0])
    limits = np.array([width, height, width, height])
    windows = np.ceil(boxes_xyxy.cpu().numpy() - 0.5).clip(0, limits).astype(np.int64).tolist()
    weights = x.weights()
    return [
        _encoded(_borders(cells, row, weights, (x, y), window), height, width)
        for row, window in zip(coefficients.float().cpu().numpy(), windows, strict=True)
    ]


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

    def place(self, pixels: Float64Array | int) -> Float64Array:
        """Returns where pixels lie; none is beyond the centres of the outermost cells."""
        place: Float64Array = np.clip(self.scale * pixels + self.offset, 0, self.num_cells - 1)
        return place

    def cells(self, start: int, stop: int) -> tuple[int, int]:
        """Returns the cells (first, one after the last) of the pixels from `start` to before `stop`."""
        return int(self.place(start)), min(int(self.place(stop - 1)) + 2, self.num_cells)

    def weights(self) -> Float32Array:
        """Returns (P, c) the share of each cell in each pixel."""
        pixels = np.arange(self.num_pixels)
        place = self.place(pixels.astype(np.float64))
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
    window: list[int],
) -> Int64Array:
    """Returns where the mask begins and ends, in turn: pixels of the image, counted column by column.

    Along a column the sum is linear from cell to cell, so that its zeros tell where the mask's pixels are.

    Args:
        cells: (w, h, K) prototypes.
        coefficients: (K,).
        weights: (W, w) share of the cells in the image's columns.
        axes: of the columns and of the rows.
        window: x1 y1 x2 y2, the pixels from the first to before the last.
    """
    (x, y), (x1, y1, x2, y2) = axes, window
    if x1 >= x2 or y1 >= y2:
        return np.zeros(0, np.int64)
    (left, right), (top, bottom) = x.cells(x1, x2), y.cells(y1, y2)
    logits = weights[x1:x2, left:right] @ (cells[left:right, top:bottom] @ coefficients)
    # A cell outside before and after those of a column: it begins and ends there.
    number = bottom - top
    is_inside = np.zeros((x2 - x1, number + 2), np.bool_)
    np.greater(logits, 0, out=is_inside[:, 1:-1])
    column, after = (is_inside[:, 1:] != is_inside[:, :-1]).nonzero()
    low = logits[column, np.maximum(after - 1, 0)].astype(np.float64)
    high = logits[column, np.minimum(after, number - 1)]
    with np.errstate(divide="ignore", invalid="ignore"):  # at the outer cells, which come next
        zero = (top + after - 1 + low / (low - high) - y.offset) / y.scale
    row = np.where(low > 0, np.ceil(zero), np.floor(zero) + 1)
    row[after == 0], row[after == number] = y1, y2
    borders = (column + x1) * y.num_pixels + row.clip(y1, y2).astype(np.int64)
    # Borders in one place cancel out: there is nothing between them, or a column goes on in the next.
    places = np.flatnonzero(np.diff(borders, prepend=-1))
    return borders[places[np.diff(places, append=len(borders)) % 2 == 1]]


def _encoded(borders: Int64Array, height: int, width: int) -> RunLengthMask:
    """Returns the mask of the borders that `_borders` gives."""
    counts = np.diff(borders, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        del counts[-1]
    size = [height, width]
    encoded = run_lengths.frPyObjects({"size": size, "counts": counts}, height, width)
    return {"size": size, "counts": encoded["counts"].decode()}
