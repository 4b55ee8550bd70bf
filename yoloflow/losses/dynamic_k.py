"""Dynamic-k matching: each object takes as many candidates as predict it well, the cheapest ones.

OTA (Ge et al. 2021, section 3.3) as YOLOX simplified it (section 2.1), and YOLOv7 after it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

ConflictRule = Literal["reassign", "cheapest", "cheapest claimant"]
TieRule = Literal["k", "up to the k-th", "below the next"]

_EPS = 1e-7
UNMATCHED_COST = 1e9
"""Cost of a pair that must not be matched; above all others."""


class Matching(NamedTuple):
    """Which candidates learn.

    Attributes:
        objects: (B, C) int64, the object that a candidate learns.
        is_matched: (B, C) bool, false where it learns none.
    """

    objects: Tensor
    is_matched: Tensor


def match_dynamic_k(
    cost: Tensor,
    overlaps: Tensor,
    is_possible: Tensor,
    largest_k: int,
    conflict: ConflictRule = "reassign",
    ties: TieRule = "k",
) -> Matching:
    """Match G objects to C candidates in each of B images.

    An object takes the k cheapest candidates; k is the sum of its `largest_k` greatest overlaps, at least 1.

    Args:
        cost: (B, G, C).
        overlaps: (B, G, C) IoU of candidate and object, 0 where the pair is not possible.
        is_possible: (B, G, C) bool.
        largest_k: greatest k.
        conflict: who gets a candidate that several objects take: "reassign", the object that it costs least,
            taker or not (the originals); "cheapest", nobody unless the object that it costs least of all has
            taken it, and this for candidates that one object took too (the reference's YOLOv7); "cheapest
            claimant", the taker that it costs least (the reference's YOLOX).
        ties: what an object takes where several candidates cost the same: "k", never more than k candidates
            (the originals); "up to the k-th", all that cost as much as the k-th (the reference's YOLOv7);
            "below the next", all cheaper than the (k + 1)-th (the reference's YOLOX).
    """
    top = min(largest_k, cost.shape[2])
    k = overlaps.topk(top).values.sum(2).long().clamp(1, top)
    cost = torch.where(is_possible, cost, UNMATCHED_COST)
    claims = _claims(cost, k, top, ties) & is_possible
    if conflict == "cheapest claimant":
        return Matching(torch.where(claims, cost, UNMATCHED_COST).argmin(1), claims.any(1))
    cheapest = cost.argmin(1)
    if conflict == "cheapest":
        return Matching(cheapest, claims.gather(1, cheapest[:, None])[:, 0])
    number = claims.sum(1)
    return Matching(torch.where(number > 1, cheapest, claims.int().argmax(1)), number > 0)


def _claims(cost: Tensor, k: Tensor, top: int, ties: TieRule) -> Tensor:
    """(B, G, C) bool: the candidates among the `k` (B, G) cheapest of each object; k is at most `top`."""
    ranked = cost.topk(min(top + 1, cost.shape[2]), largest=False)
    if ties == "k":
        is_taken = torch.arange(ranked.indices.shape[2], device=k.device) < k[..., None]
        return torch.zeros_like(cost, dtype=torch.bool).scatter(2, ranked.indices, is_taken)
    if ties == "below the next":
        return cost < ranked.values.gather(2, k.clamp(max=ranked.values.shape[2] - 1)[..., None])
    return cost <= ranked.values.gather(2, k[..., None] - 1)


def class_cost(scores: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of candidates' scores with objects' classes, without a table of all classes.

    Args:
        scores: (B, C, K) in 0..1.
        classes: (B, G).

    Returns:
        (B, G, C) sums over the K classes.
    """
    logits = (scores / (1 - scores).clamp(min=_EPS) + _EPS).log().mT
    index = classes[..., None].expand(-1, -1, logits.shape[2])
    return softplus(logits).sum(1)[:, None] - logits.gather(1, index)
