"""Box formats and overlaps.

Names state the format: xyxy = left, top, right, bottom; cxcywh = centre and size. `_norm` = divided by the
image size; without it, pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Converts (..., 4) centre boxes to corner boxes, same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Converts (..., 4) corner boxes to centre boxes, same unit."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), -1)


IoUKind = Literal["iou", "giou", "diou", "ciou"]


def box_iou(first: Tensor, second: Tensor, kind: IoUKind = "iou", eps: float = 1e-7) -> Tensor:
    """Computes the overlap of corner boxes, element by element with broadcasting.

    GIoU: Rezatofighi et al. 2019, equation 1 and algorithm 1. DIoU and CIoU: Zheng et al. 2020, equations
    7 and 10 to 11; CIoU's trade-off factor carries no gradient. `eps` is added to both heights and to the
    union, as in the reference.

    Args:
        first: (..., 4) x1 y1 x2 y2.
        second: (..., 4), broadcast against `first`.
        kind: IoU or one of its generalisations.
        eps: keeps the ratios finite.

    Returns:
        (...) overlaps: 0..1 for "iou", above -1 (giou, diou) or about -1.5 (ciou) for the others.
    """
    x1, y1, x2, y2 = first.unbind(-1)
    X1, Y1, X2, Y2 = second.unbind(-1)  # noqa: N806
    w1, h1 = x2 - x1, y2 - y1 + eps
    w2, h2 = X2 - X1, Y2 - Y1 + eps
    inter = (torch.minimum(x2, X2) - torch.maximum(x1, X1)).clamp(0) * (
        torch.minimum(y2, Y2) - torch.maximum(y1, Y1)
    ).clamp(0)
    union = w1 * h1 + w2 * h2 - inter + eps
    iou = inter / union
    if kind == "iou":
        return iou
    hull_w = torch.maximum(x2, X2) - torch.minimum(x1, X1)
    hull_h = torch.maximum(y2, Y2) - torch.minimum(y1, Y1)
    if kind == "giou":
        hull = hull_w * hull_h + eps
        return iou - (hull - union) / hull
    diagonal = hull_w**2 + hull_h**2 + eps
    centre = ((X1 + X2 - x1 - x2) ** 2 + (Y1 + Y2 - y1 - y2) ** 2) / 4
    if kind == "diou":
        return iou - centre / diagonal
    v = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    with torch.no_grad():
        alpha = v / (v - iou + (1 + eps))
    return iou - (centre / diagonal + v * alpha)


def boxes_to_original(
    boxes_xyxy: Tensor,
    scale_xy: Tensor,
    pad_xy: Tensor,
    original_size_hw: Tensor,
    height_scale_only: bool = False,
) -> Tensor:
    """Moves corner boxes from network input pixels back to pixels of the original image, clipped to it.

    Args:
        boxes_xyxy: (..., 4) in network input pixels.
        scale_xy: (2,) factor from original to network input pixels, x and y.
        pad_xy: (2,) left and top border in network input pixels.
        original_size_hw: (2,) height and width of the original image.
        height_scale_only: divide the x coordinates by the height's factor too, as MindYOLO does; it differs
            from the width's where the resize had to round (up to a pixel in the result).

    Returns:
        (..., 4) corner boxes inside the original image.
    """
    scale = scale_xy[[1, 1]] if height_scale_only else scale_xy
    boxes = (boxes_xyxy - pad_xy.repeat(2)) / scale.repeat(2)
    limit = original_size_hw.flip(0).repeat(2).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)
