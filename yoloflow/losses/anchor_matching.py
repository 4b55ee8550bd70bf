"""Matching of cells and anchors to objects by shape: YOLOv5's rule, of YOLOv3 and YOLOv7 too.

An anchor is taken where neither side differs by more than a factor from the object's; the cell under the
object's centre learns it, and with it the nearest neighbours. All shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from yoloflow.decoding import filled

# Steps in cells to the neighbours that may learn an object too: left, up, right, down.
_STEPS = ((-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))


class Match(NamedTuple):
    """The candidates of one level, M an image; those that are not used point at cell 0 and object 0.

    Attributes:
        cells: (B, M) int64, position in the level's A * H * W cells.
        corners_xy: (B, M, 2) column and row of the cell, float32.
        anchors_wh: (B, M, 2) the anchor in cells.
        objects: (B, M) int64, the object.
        is_used: (B, M) bool.
    """

    cells: Tensor
    corners_xy: Tensor
    anchors_wh: Tensor
    objects: Tensor
    is_used: Tensor


def match_by_shape(
    size_hw: Sequence[int],
    anchors_wh: Tensor,
    objects_cxcywh: Tensor,
    is_object: Tensor,
    largest_ratio: float,
    reach: float = 0.5,
) -> Match:
    """Matches the objects of B images to one level.

    Args:
        size_hw: H, W of the level in cells.
        anchors_wh: (A, 2) the level's anchors in cells.
        objects_cxcywh: (B, G, 4) centre form in 0..1.
        is_object: (B, G) false in padding rows.
        largest_ratio: by how much a side may differ from the anchor's.
        reach: 0.5 takes the nearer neighbour on each axis, 1.0 both.

    Returns:
        M = K * A * G candidates an image, K = 3 (reach 0.5) or 5.
    """
    height, width = size_hw
    size = filled((width, height), objects_cxcywh)
    centres, sizes = objects_cxcywh[..., :2] * size, objects_cxcywh[..., 2:] * size
    ratio = sizes[:, None] / anchors_wh[:, None]
    fits = (torch.maximum(ratio, 1 / ratio).amax(-1) < largest_ratio) & is_object[:, None]

    moves, is_move = _moves(centres, size, reach)
    corners = (centres[:, None] + moves).trunc()
    corners = torch.minimum(corners.clamp(min=0), size - 1)

    batch, num_moves, num_objects = corners.shape[:3]
    shape = (batch, num_moves, len(anchors_wh), num_objects)
    is_used = (is_move[:, :, None] & fits[:, None]).flatten(1)
    corners = corners[:, :, None].expand(*shape, 2).flatten(1, 3)
    anchor = torch.arange(len(anchors_wh), device=size.device)[:, None].expand(shape).flatten(1)
    objects = torch.arange(num_objects, device=size.device).expand(shape).flatten(1)
    cells = (anchor * height + corners[..., 1].long()) * width + corners[..., 0].long()
    # Padding rows reach here with any numbers, NaN and infinity too.
    corners = torch.where(is_used[..., None], corners, 0)
    return Match(
        torch.where(is_used, cells, 0),
        corners,
        anchors_wh[anchor],
        torch.where(is_used, objects, 0),
        is_used,
    )


def _moves(centres: Tensor, size: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Steps (B, K, G, 2) that lead into the cells, and which of them (B, K, G) count.

    A neighbour counts where the centre is within `reach` of it and more than a cell from that border.
    """
    before = (centres % 1 < reach) & (centres > 1)
    after = ((size - centres) % 1 < reach) & (size - centres > 1)
    steps = torch.stack([filled(step, centres) for step in _STEPS]) * reach
    stay = torch.ones_like(before[..., :1])
    if reach > 0.5:
        chosen = torch.cat((steps.new_zeros(1, 2), steps))[:, None].expand(-1, centres.shape[1], -1)
        return chosen.expand(len(centres), -1, -1, -1), torch.cat((stay, before, after), -1).transpose(1, 2)
    # At most one neighbour on each axis is near.
    counts = torch.cat((stay, before | after), -1).transpose(1, 2)
    sideways = torch.where(before[..., :1], steps[0], steps[2])
    upright = torch.where(before[..., 1:], steps[1], steps[3])
    return torch.stack((torch.zeros_like(centres), sideways, upright), 1), counts
