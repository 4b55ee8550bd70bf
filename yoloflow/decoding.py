"""Decoding: the grid of a network's cells, and raw predictions of every kind made into boxes.

Heads decode what they predict and losses what they compare with the labels, both with these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def filled(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Makes a tensor of a few numbers on the device and of the type of another, without a copy from the host.

    Args:
        numbers: N of them.
        like: says device and type.

    Returns:
        (N,) the numbers.
    """
    return torch.stack([like.new_full((), number) for number in numbers])


def cell_corners(size_hw: Sequence[int], device: torch.device) -> Tensor:
    """The (H, W, 2) x and y of the upper left corner of every cell of a map, in cells, as int64."""
    height, width = size_hw
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack((x, y), -1)


def cell_centres(
    sizes_hw: Iterable[Sequence[int]], strides: Iterable[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Computes the centres of all cells of L levels, level by level, row by row.

    Args:
        sizes_hw: H and W of each level in cells.
        strides: pixels between the cells of each level.
        device: of the result.

    Returns:
        centres (N, 2) x y in cells of their level (0.5 is the middle of the first), and strides (N, 1) in
        pixels, both float32; N is the number of cells of all levels.
    """
    centres, sizes = [], []
    for size_hw, stride in zip(sizes_hw, strides, strict=True):
        centres.append(cell_corners(size_hw, device).view(-1, 2).float() + 0.5)
        sizes.append(centres[-1].new_full((centres[-1].shape[0], 1), float(stride)))
    return torch.cat(centres), torch.cat(sizes)


def decode_anchor_boxes(shares: Tensor, anchors_wh: Tensor, corners_xy: Tensor | float = 0.0) -> Tensor:
    """Decodes the corrections of anchor boxes as YOLOv5 does; YOLOv3 and YOLOv7 share the rule.

    A centre lies up to half a cell outside its cell, a side is up to four times the anchor's.

    Args:
        shares: (..., 4) sigmoids of the raw corrections of x, y, w and h.
        anchors_wh: (..., 2) anchors in cells.
        corners_xy: (..., 2) corners of the cells in cells; 0 for boxes relative to their cell.

    Returns:
        (..., 4) boxes cx, cy, w, h in cells.
    """
    centres = shares[..., 0:2] * 2 - 0.5 + corners_xy
    return torch.cat((centres, (shares[..., 2:4] * 2) ** 2 * anchors_wh), -1)


def expected_distances(logits: Tensor, bins: Tensor | None = None) -> Tensor:
    """Computes the mean of each box side's distribution (Generalized Focal Loss, Li et al. 2020, equation 4).

    Args:
        logits: (B, 4, R, N), R bins of each side.
        bins: (R,) distances of the bins; 0 .. R - 1 by default.

    Returns:
        (B, N, 4) distances from the cell's centre to left, top, right and bottom, in cells.
    """
    if bins is None:
        bins = torch.arange(logits.shape[2], device=logits.device, dtype=logits.dtype)
    # The sum is written out: a convolution would run in half precision under autocast, too coarse.
    return (logits.softmax(2) * bins[:, None]).sum(2).transpose(1, 2)


def distances_to_xyxy(centres_xy: Tensor, distances: Tensor) -> Tensor:
    """Makes (..., 4) corner boxes of distances to left, top, right and bottom of centres (..., 2)."""
    return torch.cat((centres_xy - distances[..., :2], centres_xy + distances[..., 2:]), -1)


def distances_to_cxcywh(centres_xy: Tensor, distances: Tensor) -> Tensor:
    """Makes (..., 4) centre boxes of distances to left, top, right and bottom of centres (..., 2)."""
    left_top, right_bottom = distances.chunk(2, -1)
    return torch.cat((centres_xy + (right_bottom - left_top) / 2, left_top + right_bottom), -1)


def xyxy_to_distances(centres_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Returns (..., 4) distances from centres (..., 2) to left, top, right and bottom of corner boxes."""
    return torch.cat((centres_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - centres_xy), -1)


def bounded_exp(exponents: Tensor) -> Tensor:
    """Computes e to the power of at most 10, for sizes that a head predicts as logarithms.

    22,026 times an anchor or a cell is more than any image; beyond it a badly initialised network would
    overflow, and half precision ends at 65,504.
    """
    return exponents.clamp(max=10.0).exp()
