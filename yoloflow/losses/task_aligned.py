"""Task-aligned assignment of anchors to objects (TOOD, Feng et al. 2021, section 3.3).

An object claims the `topk` anchors inside it that predict it best, class and place together; the better an
anchor does, the more it is trained. All shapes are fixed and nothing waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Assignment(NamedTuple):
    """Anchors and the objects they learn, as a list of P = G * topk entries an image.

    An entry of score 0 is unused; no anchor stands in two used entries of an image.

    Attributes:
        anchors: (B, P) int64, the anchor of an entry.
        objects: (B, P) int64, the object it learns.
        scores: (B, P) float32 in 0..1, the class probability to predict and the weight of the box losses.
    """

    anchors: Tensor
    objects: Tensor
    scores: Tensor


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """Assigns anchors to objects by score^alpha * CIoU^beta (TOOD, equation 2).

    Attributes:
        topk: anchors an object may claim.
        alpha: exponent of the predicted score of the object's class.
        beta: exponent of the predicted box's CIoU with the object, negative CIoU counting as 0.
        eps: keeps the normalisation finite.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    eps: float = 1e-9

    @torch.no_grad()
    def __call__(
        self, scores: Tensor, boxes_xyxy: Tensor, anchors_xy: Tensor, objects_xyxy: Tensor
    ) -> Assignment:
        """Assigns the A anchors of B images to their G objects.

        Of several objects that claim an anchor, the one with the highest CIoU gets it.

        Args:
            scores: (B, G, A) float32, the probability that anchor A predicts for the class of object G.
            boxes_xyxy: (B, A, 4) predicted boxes in pixels.
            anchors_xy: (A, 2) anchor centres in pixels.
            objects_xyxy: (B, G, 4) ground truth in pixels, zeros in padding rows.
        """
        overlaps = _pairwise_ciou(objects_xyxy, boxes_xyxy)
        metrics = self._alignment(scores, overlaps).mul_(_inside(anchors_xy, objects_xyxy))
        topk = min(self.topk, metrics.shape[2])
        claimed_metrics, claimed_anchors = metrics.topk(topk, sorted=False)
        anchors, is_claim = claimed_anchors.flatten(1), claimed_metrics.flatten(1) > 0
        claimants = torch.arange(anchors.shape[1], device=anchors.device) // topk
        claimants = claimants.expand_as(anchors)

        is_used = _best_of_each_anchor(anchors, _at(overlaps, claimants, anchors), is_claim, metrics.shape[2])
        objects = self._owners(anchors, claimants, is_claim, overlaps)
        scores = self._target_scores(scores, overlaps, anchors, objects, is_used)
        return Assignment(anchors, objects, scores)

    def _owners(self, anchors: Tensor, claimants: Tensor, is_claim: Tensor, overlaps: Tensor) -> Tensor:
        """(B, P) the objects that `anchors` learn, of their `claimants` (B, P) and `overlaps` (B, G, A)."""
        return claimants

    def _alignment(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        # torch.pow is fast for 0.5, 2 and 3 only: beta 6 in two steps.
        return overlaps.clamp(0).pow_(self.beta / 2).square_().mul_(scores.pow(self.alpha))

    def _target_scores(
        self, scores: Tensor, overlaps: Tensor, anchors: Tensor, objects: Tensor, is_used: Tensor
    ) -> Tensor:
        """The metric scaled so that an object's best anchor has the object's highest CIoU (section 3.3.2)."""
        used_overlaps = _at(overlaps, objects, anchors)
        metrics = self._alignment(_at(scores, objects, anchors), used_overlaps) * is_used
        nothing = torch.zeros_like(overlaps[:, :, 0])
        best_metric = nothing.scatter_reduce(1, objects, metrics, "amax")
        best_overlap = nothing.scatter_reduce(1, objects, used_overlaps * is_used, "amax")
        return metrics * (best_overlap / (best_metric + self.eps)).gather(1, objects)


def _at(table: Tensor, objects: Tensor, anchors: Tensor) -> Tensor:
    """(B, P) entries of a (B, G, A) table."""
    return table.flatten(1).gather(1, objects * table.shape[2] + anchors)


def _best_of_each_anchor(anchors: Tensor, overlaps: Tensor, is_claim: Tensor, num_anchors: int) -> Tensor:
    """(B, P) whether a claim has its anchor's highest overlap; of equal ones the first has it alone."""
    overlaps = overlaps * is_claim
    best = overlaps.new_zeros(len(anchors), num_anchors).scatter_reduce_(1, anchors, overlaps, "amax")
    is_best = is_claim & (overlaps == best.gather(1, anchors))
    last = anchors.shape[1]
    order = torch.arange(last, device=anchors.device).expand_as(anchors)
    first = anchors.new_full((len(anchors), num_anchors), last)
    first.scatter_reduce_(1, anchors, torch.where(is_best, order, last), "amin")
    return first.gather(1, anchors) == order


def _inside(anchors_xy: Tensor, objects_xyxy: Tensor) -> Tensor:
    """(B, G, A) 1.0 where the anchor is strictly inside the object, else 0.0; nothing is inside padding."""
    left, top, right, bottom = objects_xyxy[..., None].unbind(2)
    x, y = anchors_xy.T.contiguous()
    margin = torch.minimum(x - left, right - x)
    torch.minimum(margin, y - top, out=margin)
    torch.minimum(margin, bottom - y, out=margin)
    # Floats all along: torch's comparisons and masks cost many times these on a CPU.
    return margin.sign_().clamp_(0)


def _pairwise_ciou(objects_xyxy: Tensor, boxes_xyxy: Tensor, eps: float = 1e-7) -> Tensor:
    """(B, G, A) CIoU of every object with every predicted box, equal to `boxes.box_iou` to rounding.

    This table is the largest of the loss: it is made in place, without gradient, in as few passes as can be.
    """
    X1, Y1, X2, Y2 = objects_xyxy[..., None].unbind(2)
    x1, y1, x2, y2 = boxes_xyxy.mT.contiguous()[:, None].unbind(2)
    W, H, w, h = X2 - X1, Y2 - Y1 + eps, x2 - x1, y2 - y1 + eps
    shared_w = torch.minimum(x2, X2).sub_(torch.maximum(x1, X1))
    shared_h = torch.minimum(y2, Y2).sub_(torch.maximum(y1, Y1))
    # Two intervals and their signed overlap give the hull: no second pair of minima and maxima.
    hull_w, hull_h = (w + W).sub_(shared_w), (h + H).sub_(shared_h)
    diagonal = hull_w.square_().add_(eps).addcmul_(hull_h, hull_h)
    inter = shared_w.clamp_(0).mul_(shared_h.clamp_(0))
    union = (w * h + (W * H + eps)).sub_(inter)
    iou = inter.div_(union)
    dx, dy = (x1 + x2) / 2 - (X1 + X2) / 2, (y1 + y2) / 2 - (Y1 + Y2) / 2
    centre = dx.square_().addcmul_(dy, dy).div_(diagonal)
    v = (torch.atan(w / h) * (2 / math.pi) - torch.atan(W / H) * (2 / math.pi)).square_()
    penalty = (v - iou).add_(1 + eps)
    return iou.sub_(centre).sub_(v.square_().div_(penalty))
