"""Box sides as distributions over bins (Generalized Focal Loss, Li et al. 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def expected_distances(logits: Tensor) -> Tensor:
    """The mean of each side's distribution (equation 4).

    Args:
        logits: (B, 4, R, N), R bins of distances 0 .. R - 1.

    Returns:
        (B, N, 4) distances from the anchor to left, top, right and bottom, in bins.
    """
    bins = torch.arange(logits.shape[2], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(2) * bins[:, None]).sum(2).mT


def distances_to_xyxy(anchors_xy: Tensor, distances: Tensor) -> Tensor:
    """(..., 4) corner boxes around the anchors (..., 2), from distances to left, top, right and bottom."""
    return torch.cat((anchors_xy - distances[..., :2], anchors_xy + distances[..., 2:]), -1)


def xyxy_to_distances(anchors_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) distances from the anchors (..., 2) to left, top, right and bottom of corner boxes."""
    return torch.cat((anchors_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - anchors_xy), -1)


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy of each side with the two bins around its distance (equation 6), mean of the four sides.

    Args:
        logits: (B, 4, R, N).
        distances: (B, N, 4) in bins; brought into 0 .. R - 1.01, so that both bins exist.

    Returns:
        (B, N) losses.
    """
    distances = distances.mT[:, :, None].clamp(0, logits.shape[2] - 1.01)
    left = distances.long()
    weight = distances - left
    log_probability = log_softmax(logits, 2)
    near, far = log_probability.gather(2, left), log_probability.gather(2, left + 1)
    return -torch.lerp(near, far, weight).mean((1, 2))
