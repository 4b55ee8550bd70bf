"""Dynamic-k matching: each object takes as many candidates as predict it well, the cheapest ones.

OTA (Ge et al. 2021, section 3.3) as YOLOX simplified it (section 2.1), and YOLOv7 after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

_EPS = 1e-7
UNMATCHED_COST = 1e9
"""Cost of a pair that must not be matched; above all others."""


class Matching(NamedTuple):
    """The candidates that learn.

    Attributes:
        objects: (B, C) int64, the object that a candidate learns.
        is_matched: (B, C) bool, false where it learns none.
    """

    objects: Tensor
    is_matched: Tensor


def k_cheapest(cost: Tensor, k: Tensor, largest_k: int) -> Tensor:
    """Returns (B, G, C) bool: the k cheapest candidates of each object, of equal ones no more than k.

    Args:
        cost: (B, G, C).
        k: (B, G) 1 to `largest_k`.
        largest_k: at most C.
    """
    ranked = cost.topk(min(largest_k + 1, cost.shape[2]), largest=False).indices
    is_taken = torch.arange(ranked.shape[2], device=k.device) < k[..., None]
    return torch.zeros_like(cost, dtype=torch.bool).scatter(2, ranked, is_taken)


def reassign(cost: Tensor, is_taken: Tensor) -> Matching:
    """Gives a candidate that several objects take to the object that it costs least, taker or not."""
    number = is_taken.sum(1)
    objects = torch.where(number > 1, cost.argmin(1), is_taken.int().argmax(1))
    return Matching(objects, number > 0)


def match_dynamic_k(
    cost: Tensor,
    overlaps: Tensor,
    is_possible: Tensor,
    largest_k: int,
    take: Callable[[Tensor, Tensor, int], Tensor] = k_cheapest,
    settle: Callable[[Tensor, Tensor], Matching] = reassign,
    impossible_cost: float = UNMATCHED_COST,
) -> Matching:
    """Matches G objects to C candidates in each of B images.

    An object takes the k cheapest candidates; k is the sum of its `largest_k` greatest overlaps, at least 1.

    Args:
        cost: (B, G, C).
        overlaps: (B, G, C) IoU of candidate and object, 0 where the pair is not possible.
        is_possible: (B, G, C) bool.
        largest_k: greatest k.
        take: the candidates that an object takes, see `k_cheapest`.
        settle: the object that a candidate learns, of costs and takings (B, G, C), see `reassign`.
        impossible_cost: of pairs that are not possible, which are ranked with the others but never taken.
    """
    top = min(largest_k, cost.shape[2])
    k = overlaps.topk(top).values.sum(2).long().clamp(1, top)
    cost = torch.where(is_possible, cost, impossible_cost)
    return settle(cost, take(cost, k, top) & is_possible)


def class_cost(scores: Tensor, classes: Tensor) -> Tensor:
    """Returns the cross-entropy of candidates' scores with objects' classes, without a table of all classes.

    Args:
        scores: (B, C, K) in 0..1.
        classes: (B, G).

    Returns:
        (B, G, C) sums over the K classes.
    """
    logits = (scores / (1 - scores).clamp(min=_EPS) + _EPS).log().mT
    index = classes[..., None].expand(-1, -1, logits.shape[2])
    return softplus(logits).sum(1)[:, None] - logits.gather(1, index)
